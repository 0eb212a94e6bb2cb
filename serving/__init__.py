"""A checkpoint over HTTP: the handler of Hugging Face Inference Endpoints, and the server of `unisrec serve`.

Nothing is imported here: FastAPI, pydantic and uvicorn come with `pip install "unisrec[serve]"`.
"""
