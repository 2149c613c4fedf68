#!/usr/bin/env python3
"""Speaks to a grain through its supervisor's socket, knowing only the tables of the wire format.

    independent_client.py SOCKET PATH [options]

Connects to the Unix socket, takes the bootstrap object as a Supervisor, asks it for the main view,
opens a WebSession and sends one request. Prints one JSON object: the answer's kind and status, its
headers, its cookies and its body (`text` when that is UTF-8, else `base64`). Exit status 0 for any
answer, 1 with {"error": ...} when there was none.

Runs in the environment of requirements.txt.
"""

import argparse
import asyncio
import base64
import json
import pathlib
import sys
import tempfile

import capnp

import wire_to_capnp

HERE = pathlib.Path(__file__).resolve().parent
TABLES = HERE.parent.parent / "crates/sandstorm-schema/tests/wire"

# Statuses that the kinds of answer stand for, where the answer itself has no code.
SUCCESS = {"ok": 200, "created": 201, "accepted": 202, "noContent": 204, "partialContent": 206,
           "multiStatus": 207, "notModified": 304}
CLIENT_ERROR = {"badRequest": 400, "forbidden": 403, "notFound": 404, "methodNotAllowed": 405,
                "notAcceptable": 406, "conflict": 409, "gone": 410, "requestEntityTooLarge": 413,
                "requestUriTooLong": 414, "unsupportedMediaType": 415, "imATeapot": 418,
                "preconditionFailed": 412, "unprocessableEntity": 422}
REDIRECT = {(True, True): 301, (False, True): 303, (False, False): 307, (True, False): 308}


def load_schema():
    """The schema, made from the tables alone."""
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "wire.capnp")
        path.write_text(wire_to_capnp.schema([TABLES / "wire.tsv", TABLES / "supervisor.tsv"]))
        return capnp.SchemaParser().load(str(path))


wire = load_schema()


class SessionContext(wire.SessionContext.Server):
    """What the app gets of the visitor: nothing."""


class Body(wire.ByteStream.Server):
    """Takes a streamed body."""

    def __init__(self):
        self.chunks, self.expected, self.finished = [], None, asyncio.Event()

    async def write(self, data, **_):
        self.chunks.append(bytes(data))

    async def expectSize(self, size, **_):
        self.expected = size

    async def done(self, **_):
        self.finished.set()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("socket")
    parser.add_argument("path", help="as in the request line, without the leading slash")
    parser.add_argument("--method", default="get",
                        choices=["get", "head", "post", "put", "patch", "delete", "options"])
    parser.add_argument("--body", default="", help="@FILE reads a file")
    parser.add_argument("--mime", default="text/plain")
    parser.add_argument("--stream", action="store_true", help="post and put: send it in pieces")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cookie", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--if-none-match", action="append", default=[], metavar="TAG")
    parser.add_argument("--permissions", default="", help="bits, such as 101")
    parser.add_argument("--name", default="Ada Lovelace")
    parser.add_argument("--base", default="http://ui-test.localhost:3000")
    parser.add_argument("--view", action="store_true", help="the bootstrap object is the view itself")
    parser.add_argument("--timeout", type=float, default=30, help="seconds")
    return parser.parse_args()


def pair(text):
    name, _, value = text.partition("=")
    return name, value


def fill_context(context, args, body):
    context.responseStream = body
    for field, given, names in (("cookies", args.cookie, ("key", "value")),
                                ("additionalHeaders", args.header, ("name", "value"))):
        entries = context.init(field, len(given))
        for entry, text in zip(entries, given):
            name, value = pair(text)
            setattr(entry, names[0], name)
            setattr(entry, names[1], value)
    if args.if_none_match:
        tags = context.eTagPrecondition.init("matchesNoneOf", len(args.if_none_match))
        for tag, value in zip(tags, args.if_none_match):
            tag.value = value


async def new_session(view, args):
    request = view.newSession_request()
    request.userInfo.displayName.defaultText = args.name
    request.userInfo.identityId = bytes(range(32))
    permissions = request.userInfo.init("permissions", len(args.permissions))
    for index, bit in enumerate(args.permissions):
        permissions[index] = bit == "1"
    request.context = SessionContext()
    request.sessionType = wire.WebSession.schema.node.id
    params = wire.WebSession.Params.new_message(
        basePath=args.base, userAgent="independent", acceptableLanguages=["en"])
    request.sessionParams = params
    request.tabId = bytes(range(16))
    return (await request.send()).session.cast_as(wire.WebSession)


async def call(session, args, content, body):
    """Sends the request and returns the answer's reader."""
    method = args.method
    if args.stream:
        request = getattr(session, f"{method}Streaming_request")()
        request.mimeType = args.mime
        request.path = args.path
        fill_context(request.context, args, body)
        stream = (await request.send()).stream
        answer = stream.getResponse()
        await stream.expectSize(len(content))
        for start in range(0, len(content), 65536):
            await stream.write(content[start : start + 65536])
        await stream.done()
        return await answer
    request = getattr(session, f"{'get' if method == 'head' else method}_request")()
    request.path = args.path
    fill_context(request.context, args, body)
    if method == "head":
        request.ignoreBody = True
    if method in ("post", "put", "patch"):
        request.content.mimeType = args.mime
        request.content.content = content
    return await request.send()


def add_body(result, data):
    try:
        result["text"] = data.decode()
    except UnicodeDecodeError:
        result["base64"] = base64.b64encode(data).decode()


async def describe(answer, body):
    """An answer as a dictionary."""
    kind = str(answer.which())
    result = {"kind": kind}
    if kind == "content":
        content = answer.content
        result["status"] = SUCCESS[str(content.statusCode)]
        result["mimeType"], result["encoding"] = content.mimeType, content.encoding
        if content._has("eTag"):
            result["eTag"] = {"value": content.eTag.value, "weak": content.eTag.weak}
        if str(content.disposition.which()) == "download":
            result["download"] = content.disposition.download
        if str(content.body.which()) == "bytes":
            data = bytes(content.body.bytes)
        else:
            await body.finished.wait()
            data = b"".join(body.chunks)
            result["streamed"], result["expectedSize"] = True, body.expected
        add_body(result, data)
    elif kind == "noContent":
        result["status"] = 205 if answer.noContent.shouldResetForm else 204
    elif kind == "preconditionFailed":
        result["status"] = 412
        if answer.preconditionFailed._has("matchingETag"):
            result["eTag"] = {"value": answer.preconditionFailed.matchingETag.value}
    elif kind == "redirect":
        redirect = answer.redirect
        result["status"] = REDIRECT[redirect.isPermanent, redirect.switchToGet]
        result["location"] = redirect.location
    else:
        error = getattr(answer, kind)
        result["status"] = CLIENT_ERROR[str(error.statusCode)] if kind == "clientError" else 500
        if error._has("nonHtmlBody"):
            result["mimeType"] = error.nonHtmlBody.mimeType
            add_body(result, bytes(error.nonHtmlBody.data))
        else:
            result["text"] = error.descriptionHtml
    result["headers"] = [[h.name, h.value] for h in answer.additionalHeaders]
    result["cookies"] = [
        {"name": c.name, "value": c.value, "path": c.path, "httpOnly": c.httpOnly,
         "expires": str(c.expires.which())}
        for c in answer.setCookies]
    return result


async def talk(args):
    content = args.body.encode()
    if args.body.startswith("@"):
        content = pathlib.Path(args.body[1:]).read_bytes()
    connection = await capnp.AsyncIoStream.create_unix_connection(args.socket)
    bootstrap = capnp.TwoPartyClient(connection).bootstrap()
    if args.view:
        view = bootstrap.cast_as(wire.UiView)
    else:
        supervisor = bootstrap.cast_as(wire.Supervisor)
        await supervisor.keepAlive()
        view = (await supervisor.getMainView()).view
    session = await new_session(view, args)
    body = Body()
    answer = await call(session, args, content, body)
    if args.method == "options":
        return {"kind": "options", "davClass1": answer.davClass1, "davClass2": answer.davClass2,
                "davClass3": answer.davClass3, "davExtensions": list(answer.davExtensions)}
    return await describe(answer, body)


async def main():
    args = arguments()
    try:
        result, status = await asyncio.wait_for(talk(args), args.timeout), 0
    except (capnp.KjException, OSError, asyncio.TimeoutError) as error:
        text = getattr(error, "description", None) or str(error) or type(error).__name__
        result, status = {"error": text, "type": str(getattr(error, "type", ""))}, 1
    print(json.dumps(result), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(capnp.run(main())))
