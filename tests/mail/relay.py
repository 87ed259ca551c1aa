"""A mail server made of aiosmtpd: an SMTP that is not ours, and Python's own reading of the mails.

    relay.py ADDRESS MODE [CERT KEY] [USER PASSWORD]

MODE is plain, starttls or smtps; or unreliable, which is plain and now and then answers too late,
refuses, or hangs up; or picky, which is plain, knows no SMTPUTF8, and says 554 to every message to
bob@acme.example. Prints the port, then a line of JSON for each message that it takes over, or for
each fault. Ends with its standard input.
"""

import asyncio
import email
import email.policy
import json
import random
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

address, mode, *rest = sys.argv[1:]
context = None
if mode in ("starttls", "smtps"):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(rest[0], rest[1])
    rest = rest[2:]
login = tuple(word.encode() for word in rest) or None


def say(what):
    print(json.dumps(what), flush=True)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        parts = {part.get_content_type(): part for part in message.walk()}
        defects = [repr(defect) for part in message.walk() for defect in part.defects]
        defects += [repr(defect) for header in message.values() for defect in header.defects]
        say({
            "time": time.time(),
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "options": envelope.mail_options,
            "headers": {name: str(value) for name, value in message.items()},
            "text": parts["text/plain"].get_content(),
            "html": parts["text/html"].get_content(),
            "defects": defects,
            "tls": session.ssl is not None or mode == "smtps",
            "authenticated": bool(session.authenticated),
        })
        return "250 2.0.0 taken"


class Unreliable(Handler):
    """Of a hundred messages, one in ten meets a fault."""

    # Longer than a client of the tests waits.
    SLOW = 1

    def fault(self, *faults):
        """One of these, each for one message in a hundred."""
        chosen = random.randrange(100)
        if chosen >= len(faults):
            return None
        say({"fault": faults[chosen]})
        return faults[chosen]

    async def handle_RCPT(self, server, session, envelope, address, options):
        match self.fault("late to RCPT", "450 to RCPT", "550 to RCPT"):
            case "late to RCPT":
                await asyncio.sleep(self.SLOW)
            case "450 to RCPT":
                return "450 4.2.1 busy"
            case "550 to RCPT":
                return "550 5.1.1 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        match self.fault("451 to DATA", "554 to DATA", "gone before it took over"):
            case "451 to DATA":
                return "451 4.3.0 later"
            case "554 to DATA":
                return "554 5.6.0 not this one"
            case "gone before it took over":
                server.transport.abort()
                return "451 4.3.0 later"
        taken = await super().handle_DATA(server, session, envelope)
        match self.fault("late after it took over", *["gone after it took over"] * 3):
            case "late after it took over":
                await asyncio.sleep(self.SLOW)
            case "gone after it took over":
                server.transport.abort()
        return taken


class Picky(Handler):
    """Takes mail, but none to Bob, and says so when it has read it."""

    async def handle_DATA(self, server, session, envelope):
        if envelope.rcpt_tos == ["bob@acme.example"]:
            return "554 5.7.1 message refused by policy"
        return await super().handle_DATA(server, session, envelope)


def authenticate(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == login
    return AuthResult(success=right, handled=False)


def session():
    return SMTP(
        {"unreliable": Unreliable, "picky": Picky}.get(mode, Handler)(),
        enable_SMTPUTF8=mode != "picky",
        tls_context=context if mode == "starttls" else None,
        require_starttls=mode == "starttls",
        authenticator=authenticate if login else None,
        auth_required=login is not None,
        # It can't tell that it speaks TLS where that was never otherwise.
        auth_require_tls=mode == "starttls",
    )


async def serve():
    loop = asyncio.get_running_loop()
    tls = context if mode == "smtps" else None
    server = await loop.create_server(session, address, 0, ssl=tls)
    say(server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(serve())
