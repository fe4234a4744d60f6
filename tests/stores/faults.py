"""What may go wrong between a store and its reader: each answers a request, or leaves it to it."""

import threading

ACCESS_DENIED = (
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message>'
    b"<AWSAccessKeyId>mine</AWSAccessKeyId></Error>"
)


def of(name, fault):
    """A fault of the requests for one object only."""
    seen = []

    def one(handler, _):
        if not handler.path.split("?")[0].endswith(name):
            return False
        seen.append(handler.path)
        return fault(handler, len(seen))

    return one


def status(number, body=b""):
    def answer(handler, _):
        handler.answer(number, body, {})
        return True

    return answer


def unavailable_at_first(times):
    def answer(handler, count):
        if count > times:
            return False
        handler.answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
        return True

    return answer


def silent(handler, _):
    threading.Event().wait(20)
    return True


def silent_in_its_body(handler, _):
    return _part_of_its_body(handler, lambda: threading.Event().wait(20))


def cut(handler, _):
    return _part_of_its_body(handler, lambda: None)


def cut_at_first(handler, count):
    return count == 1 and cut(handler, count)


def _part_of_its_body(handler, then):
    found, headers, body = handler.store_answer()
    handler.send_response(found)
    for name, value in headers.items():
        if name not in ("date", "server", "connection", "transfer-encoding"):
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    then()
    handler.close_connection = True
    return True
