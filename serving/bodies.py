"""Bodies of HTTP requests, bounded in size and time, for ASGI applications."""

import asyncio

from starlette.types import Message, Receive


DRAINED = 16  # times the limit: what is read of a body that is too large, so that its sender can read the answer


class Refusal(Exception):
    """HTTP status and one line for a request that is not admitted."""


async def read_body(receive: Receive, limit: int, seconds: float) -> bytes:
    r"""
    Reads the body of a request.

    Args:
        receive (`Receive`): ASGI callable of the request.
        limit (`int`): Largest number of bytes.
        seconds (`float`): Time that the body may take.

    Returns:
        `bytes`: The body.

    Raises:
        Refusal: If it is larger, takes longer or breaks off.
    """
    body, size, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(seconds):
            while more and size <= DRAINED * limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "The request broke off.")
                size += len(message.get("body", b""))
                if size <= limit:
                    body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        if size <= limit:
            raise Refusal(408, f"The body took too long; expected all of it within {seconds:g} seconds.") from None
    if size > limit:
        raise Refusal(413, f"The body is too large; at most {limit:,} bytes are read.")
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that hands on a `body` that was read, and then what else comes from `receive`."""
    rest: list[Message] = [{"type": "http.request", "body": body}]

    async def hand_on() -> Message:
        return rest.pop() if rest else await receive()

    return hand_on


__all__ = ["Refusal", "read_body", "replay"]
