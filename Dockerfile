# A checkpoint over HTTP: docker build -t unisrec . && docker run -p 8000:8000 -v "$PWD/model:/model:ro" unisrec
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
# The CPU build of PyTorch, before all that changes: the CUDA build is ten times as large and is not used.
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch
# What .dockerignore leaves: the code and the released checkpoints.
COPY . /source
RUN pip install "/source[offline,peft,serve]"

RUN useradd --create-home unisrec
USER unisrec
WORKDIR /home/unisrec
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# The token comes from the environment: docker run -e UNISREC_TOKEN=...
ENTRYPOINT ["unisrec", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model"]
