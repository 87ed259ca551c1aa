"""The life of a few tokens, told by a client generated from proto/.

    TEST_CREDENTIAL=... TEST_UNKNOWN_TOKEN=... story.py ADDRESS

ADDRESS is a plaintext server with the built-in catalogue. TEST_CREDENTIAL is an operator's;
TEST_UNKNOWN_TOKEN is a well-formed secret that this server never made. Prints a line for each
thing that held, and stops with a status other than 0 at the first that did not.
"""

import importlib
import os
import pathlib
import sys
import tempfile
import uuid

import grpc
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"
DEADLINE = 20.0
CODE = grpc.StatusCode


class Violation(Exception):
    """Something the contract promises did not hold."""


def check(condition, *seen):
    if not condition:
        raise Violation(" ".join(str(part) for part in seen))


def equal(got, wanted, what):
    check(got == wanted, f"{what}: got {got!r}, wanted {wanted!r}")


def held(what):
    print(f"ok  {what}", flush=True)


def generate():
    """Compiles proto/portcullis; google/rpc/status comes with googleapis-common-protos."""
    out = tempfile.TemporaryDirectory(prefix="portcullis-stubs-")
    files = sorted((PROTO / "portcullis").rglob("*.proto"))
    status = protoc.main(
        ["protoc", f"-I{PROTO}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
        + [f"--python_out={out.name}", f"--grpc_python_out={out.name}"]
        + [str(file) for file in files]
    )
    check(status == 0, "protoc failed with", status)
    sys.path.insert(0, out.name)
    modules = {}
    for file in files:
        name = file.stem
        modules[name] = importlib.import_module(f"portcullis.v1.{name}_pb2")
        modules[f"{name}_grpc"] = importlib.import_module(f"portcullis.v1.{name}_pb2_grpc")
    return out, modules


STUBS, MODULES = generate()
authz = MODULES["authorization_service"]
tokens = MODULES["token_service"]
accounts = MODULES["account_service"]
catalogs = MODULES["catalog_service"]
credentials = MODULES["credential_service"]
types = MODULES["types"]


class Caller:
    """Every service, called with one credential, or with none."""

    def __init__(self, channel, credential):
        self.metadata = [("authorization", f"Bearer {credential}")] if credential is not None else []
        self.stubs = [
            MODULES["authorization_service_grpc"].AuthorizationServiceStub(channel),
            MODULES["token_service_grpc"].TokenServiceStub(channel),
            MODULES["account_service_grpc"].AccountServiceStub(channel),
            MODULES["catalog_service_grpc"].CatalogServiceStub(channel),
            MODULES["credential_service_grpc"].CredentialServiceStub(channel),
            MODULES["self_service_grpc"].SelfServiceStub(channel),
        ]

    def __getattr__(self, call):
        for stub in self.stubs:
            if hasattr(stub, call):
                method = getattr(stub, call)
                return lambda request: method(request, metadata=self.metadata, timeout=DEADLINE)
        raise AttributeError(call)


class Refusal:
    """A gRPC error with its details."""

    def __init__(self, code, status):
        self.code = code
        self.message = status.message if status is not None else ""
        self.violations = []
        self.error_info = None
        self.preconditions = []
        for detail in status.details if status is not None else []:
            if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                self.violations += bad.field_violations
            elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                self.error_info = error_details_pb2.ErrorInfo()
                detail.Unpack(self.error_info)
            elif detail.Is(error_details_pb2.PreconditionFailure.DESCRIPTOR):
                failure = error_details_pb2.PreconditionFailure()
                detail.Unpack(failure)
                self.preconditions += failure.violations

    def text(self):
        """All that a person would read of it."""
        parts = [self.message]
        parts += [violation.description for violation in self.violations]
        parts += [violation.description for violation in self.preconditions]
        return "\n".join(parts)

    def names(self, *fields):
        """Whether each of `fields`, or an element of it, is among the bad ones."""
        bad = [violation.field for violation in self.violations]
        for field in fields:
            check(
                any(name == field or name.endswith("." + field) or f"{field}[" in name for name in bad),
                f"no violation names {field!r}: {bad}",
            )
        for violation in self.violations:
            check(violation.description, "a violation without description:", violation.field)


def refused(codes, call, request):
    """Makes a call that must fail with one of `codes`; every error says why to a machine."""
    codes = codes if isinstance(codes, tuple) else (codes,)
    try:
        answer = call(request)
    except grpc.RpcError as error:
        check(error.code() in codes, f"got {error.code()} ({error.details()}), wanted {codes}")
        refusal = Refusal(error.code(), rpc_status.from_call(error))
        check(refusal.error_info is not None and refusal.error_info.reason, "an error without ErrorInfo:", error)
        return refusal
    raise Violation(f"wanted {codes}, got the answer {answer}")


def is_item_error(item, code, *fields):
    """One item of a batch or a stream that is an error of its own."""
    equal(item.WhichOneof("result"), "error", "the bad item's result")
    equal(item.error.code, code, "the bad item's code")
    Refusal(code, item.error).names(*fields)


def main(address):
    channel = grpc.insecure_channel(address)
    operator = Caller(channel, os.environ["TEST_CREDENTIAL"])

    # Health needs no credential; its messages are one byte long, so no stubs for it.
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    equal(health(b"", timeout=DEADLINE), b"\x08\x01", "health")
    held("health is SERVING, without a credential")

    # --- the catalogue
    scopes = {scope.name: scope for scope in operator.GetCatalog(catalogs.GetCatalogRequest()).scopes}
    read, reveal, send = (scopes[name] for name in ("transactions.read", "cards.reveal", "transactions.send"))
    equal((read.access, read.requires_whitelist), (catalogs.ACCESS_READ, False), "transactions.read")
    equal((reveal.access, reveal.requires_whitelist), (catalogs.ACCESS_WRITE, True), "cards.reveal")
    equal((send.access, send.requires_whitelist), (catalogs.ACCESS_WRITE, True), "transactions.send")
    check("GET /api/v1/cards/{card_id}/reveal" in reveal.routes, "routes of cards.reveal:", list(reveal.routes))
    held("the catalogue: reading is not the same as GET")

    # --- an account
    admins = ["ada@example.com", "grace@example.com"]
    account = operator.CreateAccount(
        accounts.CreateAccountRequest(name="Python story", admin_emails=admins)
    ).account
    check(account.account_id, "no account_id")
    equal(account.name, "Python story", "name")
    equal(list(account.admin_emails), admins, "admin_emails")
    got = operator.GetAccount(accounts.GetAccountRequest(account_id=account.account_id)).account
    equal(got, account, "the account as it reads back")
    held("an account is created and reads back")

    refusal = refused(CODE.INVALID_ARGUMENT, operator.CreateAccount, accounts.CreateAccountRequest())
    refusal.names("name", "admin_emails")
    held("BadRequest names all bad fields, not the first")

    # --- tokens
    def create(**fields):
        request = tokens.CreateTokenRequest(account_id=account.account_id, **fields)
        answer = operator.CreateToken(request)
        check(answer.token.token_id, "no token_id")
        equal(answer.token.account_id, account.account_id, "account_id")
        equal(answer.token.state, types.TOKEN_STATE_ACTIVE, "state")
        check(answer.secret.startswith("pcl"), "the secret lacks its prefix")
        check(answer.secret not in str(answer.token), "the token shows its secret")
        return answer.token, answer.secret

    writer, writer_secret = create(
        name="writer",
        kind=types.TOKEN_KIND_READ_WRITE,
        whitelist=["192.0.2.1/32", "198.51.100.0/24, 2001:DB8:0::/48", "::ffff:203.0.113.8"],
    )
    equal(writer.kind, types.TOKEN_KIND_READ_WRITE, "kind")
    equal(
        sorted(writer.whitelist),
        ["192.0.2.1", "198.51.100.0/24", "2001:db8::/48", "203.0.113.8"],
        "the whitelist in canonical form",
    )
    check(set(scopes) == set(writer.granted_scopes), "READ_WRITE grants:", list(writer.granted_scopes))
    held("a READ_WRITE token, its whitelist in canonical form")

    custom, custom_secret = create(
        name="custom", kind=types.TOKEN_KIND_CUSTOM, scopes=["cards.reveal"], whitelist=["203.0.113.0/24"]
    )
    equal(list(custom.granted_scopes), ["cards.reveal"], "CUSTOM grants")
    held("a CUSTOM token")

    reader, reader_secret = create(name="reader", kind=types.TOKEN_KIND_READ_ONLY)
    equal(
        sorted(reader.granted_scopes),
        sorted(scope.name for scope in scopes.values() if scope.access == catalogs.ACCESS_READ),
        "READ_ONLY grants",
    )
    equal(list(reader.whitelist), [], "the reader's whitelist")
    held("a READ_ONLY token")

    needs_one = (CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION)
    refused(
        needs_one,
        operator.CreateToken,
        tokens.CreateTokenRequest(account_id=account.account_id, name="x", kind=types.TOKEN_KIND_READ_WRITE),
    )
    refused(
        needs_one,
        operator.CreateToken,
        tokens.CreateTokenRequest(
            account_id=account.account_id, name="x", kind=types.TOKEN_KIND_CUSTOM, scopes=["transactions.send"]
        ),
    )
    held("no token that needs a whitelist without one")

    refusal = refused(
        CODE.INVALID_ARGUMENT,
        operator.CreateToken,
        tokens.CreateTokenRequest(
            account_id=account.account_id,
            name="x",
            kind=types.TOKEN_KIND_READ_WRITE,
            whitelist=["192.0.2.1", "10.0.0.5/24", "010.0.0.1"],
        ),
    )
    refusal.names("whitelist")
    for part in ("10.0.0.5/24", "10.0.0.0/24", "10.0.0.5/32", "010.0.0.1"):
        check(part in refusal.text(), f"the refusal does not speak of {part}:", refusal.text())
    held("a bad whitelist entry is named with its cure, and so is the next one")

    # --- whitelists
    def change(token, **fields):
        return tokens.ManageWhitelistRequest(token_id=token.token_id, **fields)

    before = operator.ManageWhitelist(change(writer))
    equal(sorted(before.entries), sorted(writer.whitelist), "the whitelist as read")
    equal(before.version, writer.whitelist_version, "its version")

    same = operator.ManageWhitelist(change(writer, add=["192.0.2.1"]))
    equal((list(same.entries), same.version), (list(before.entries), before.version), "adding what is present")
    held("a whitelist is a set: adding what is present changes nothing")

    tried = operator.ManageWhitelist(change(writer, add=["192.0.2.0/28"], validate_only=True))
    check("192.0.2.0/28" in tried.entries, "validate_only shows:", list(tried.entries))
    equal(operator.ManageWhitelist(change(writer)).version, before.version, "the version after validate_only")
    held("validate_only shows the change and makes none")

    added = operator.ManageWhitelist(
        change(writer, add=["192.0.2.0/28"], expected_version=before.version)
    )
    equal(sorted(added.entries), sorted([*before.entries, "192.0.2.0/28"]), "entries after adding")
    check(added.version > before.version, "the version did not rise")
    held("adding")

    refusal = refused(
        CODE.ABORTED, operator.ManageWhitelist, change(writer, add=["192.0.2.99"], expected_version=before.version)
    )
    equal(operator.ManageWhitelist(change(writer)).version, added.version, "the version after ABORTED")
    held("a stale expected_version is ABORTED and changes nothing")

    removed = operator.ManageWhitelist(change(writer, remove=["192.0.2.1"]))
    check("192.0.2.1" not in removed.entries, "still there:", list(removed.entries))
    equal(list(removed.still_covered_by), ["192.0.2.0/28"], "still_covered_by")
    check(removed.propagation.complete, "a narrowing call answered before its change was bound")
    held("removing names what still covers the address, and is bound when it returns")

    refusal = refused(
        (CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION, CODE.NOT_FOUND),
        operator.ManageWhitelist,
        change(writer, remove=["192.0.2.1"]),
    )
    check("192.0.2.1" in refusal.text(), "does not name the entry:", refusal.text())
    held("removing what is absent is refused, naming it")

    replaced = operator.ManageWhitelist(
        change(writer, replace=tokens.WhitelistReplacement(entries=["198.51.100.0/24", "2001:db8::/48"]))
    )
    equal(sorted(replaced.entries), ["198.51.100.0/24", "2001:db8::/48"], "entries after replacing")
    held("replacing")

    refusal = refused(
        CODE.FAILED_PRECONDITION,
        operator.ManageWhitelist,
        change(writer, remove=["198.51.100.0/24", "2001:db8::/48"]),
    )
    check(refusal.preconditions, "no PreconditionFailure")
    check(all(rule.type and rule.description for rule in refusal.preconditions), "an empty violation:", refusal.preconditions)
    refused(
        CODE.FAILED_PRECONDITION,
        operator.ManageWhitelist,
        change(writer, replace=tokens.WhitelistReplacement(allow_any_address=True)),
    )
    equal(operator.ManageWhitelist(change(writer)).version, replaced.version, "the version after the refusals")
    held("a READ_WRITE token can't be left without a whitelist: PreconditionFailure says so")

    operator.ManageWhitelist(change(reader, add=["192.0.2.5"]))
    refused(needs_one, operator.ManageWhitelist, change(reader, remove=["192.0.2.5"]))
    refused(needs_one, operator.ManageWhitelist, change(reader, replace=tokens.WhitelistReplacement()))
    lifted = operator.ManageWhitelist(
        change(reader, replace=tokens.WhitelistReplacement(allow_any_address=True))
    )
    equal(list(lifted.entries), [], "entries after lifting")
    held("lifting a restriction takes allow_any_address")

    # --- decisions
    def ask(token, client_ip="", scope=None, http=None, dry_run=False):
        request = authz.AuthorizeRequest(token=token, client_ip=client_ip, dry_run=dry_run)
        if scope is not None:
            request.scope = scope
        if http is not None:
            request.http.method, request.http.path = http
        return request

    def allowed(answer, token, scope, entry):
        equal(answer.decision, authz.DECISION_ALLOW, f"decision ({answer.message})")
        equal(answer.reason, authz.REASON_ALLOWED, "reason")
        equal(answer.token_id, token.token_id, "token_id")
        equal(answer.account_id, account.account_id, "account_id")
        equal(answer.required_scope, scope, "required_scope")
        equal(answer.matched_entry, entry, "matched_entry")
        check(not answer.HasField("pending_action"), "a pending action on a new token")

    def denied(answer, reason, *named):
        equal(answer.decision, authz.DECISION_DENY, "decision")
        equal(authz.Reason.Name(answer.reason), reason, f"reason ({answer.message})")
        check(answer.message, "a denial without a message")
        equal(answer.matched_entry, "", "matched_entry of a denial")
        for part in named:
            check(part in answer.message, f"the message does not name {part}:", answer.message)

    decide = operator.Authorize
    reveal_path = ("GET", "/api/v1/cards/42/reveal")
    allowed(
        decide(ask(writer_secret, "198.51.100.9", scope="transactions.send")),
        writer, "transactions.send", "198.51.100.0/24",
    )
    allowed(
        decide(ask(writer_secret, "::ffff:198.51.100.9", scope="cards.reveal")),
        writer, "cards.reveal", "198.51.100.0/24",
    )
    allowed(
        decide(ask(writer_secret, "2001:db8::77", scope="transactions.read", dry_run=True)),
        writer, "transactions.read", "2001:db8::/48",
    )
    allowed(decide(ask(custom_secret, "203.0.113.7", http=reveal_path)), custom, "cards.reveal", "203.0.113.0/24")
    allowed(
        decide(ask(custom_secret, "203.0.113.7", http=("HEAD", "/api/v1/cards/4%31/reveal?full=1"))),
        custom, "cards.reveal", "203.0.113.0/24",
    )
    allowed(decide(ask(reader_secret, "", scope="transactions.read")), reader, "transactions.read", "")
    held("allowed: by scope, by route, IPv4, IPv6, IPv4-mapped, dry run")

    for string in ("", "something else", "pcl_", "x" * 4096, writer_secret[:-1], "\x00\u202e'; --"):
        answer = decide(ask(string, "198.51.100.9", scope="transactions.read"))
        denied(answer, "REASON_TOKEN_MALFORMED")
        equal((answer.token_id, answer.account_id), ("", ""), "ids of no token")
        check(len(string) < 5 or string not in answer.message, "the message repeats the string")
    held("REASON_TOKEN_MALFORMED")

    unknown = os.environ["TEST_UNKNOWN_TOKEN"]
    answer = decide(ask(unknown, "198.51.100.9", scope="transactions.read"))
    denied(answer, "REASON_TOKEN_NOT_FOUND")
    check(unknown not in answer.message, "the message repeats the secret")
    held("REASON_TOKEN_NOT_FOUND")

    for http in (
        ("GET", "/api/v1/nowhere"),
        ("POST", "/api/v1/cards/42/reveal"),
        ("get", "/api/v1/cards/42/reveal"),
        ("GET", "/api/v1/cards/42/reveal/"),
        ("GET", "/api/v1/cards//reveal"),
        ("GET", "/api/v1/cards/../cards/42/reveal"),
        ("GET", "/api/v1/cards/%2e%2e/reveal"),
        ("GET", "/api/v1/cards/4%2F2/reveal"),
        ("GET", "/api/v1/cards/%zz/reveal"),
    ):
        denied(decide(ask(custom_secret, "203.0.113.7", http=http)), "REASON_NO_MATCHING_ROUTE")
    held("REASON_NO_MATCHING_ROUTE")

    answer = decide(ask(reader_secret, "203.0.113.7", http=reveal_path))
    denied(answer, "REASON_SCOPE_NOT_GRANTED", "cards.reveal")
    equal(answer.required_scope, "cards.reveal", "required_scope of a denial")
    equal(answer.token_id, reader.token_id, "token_id of a denial")
    denied(decide(ask(custom_secret, scope="transactions.send")), "REASON_SCOPE_NOT_GRANTED", "transactions.send")
    held("REASON_SCOPE_NOT_GRANTED, before the address is looked at")

    denied(decide(ask(writer_secret, scope="transactions.read")), "REASON_CLIENT_IP_MISSING")
    held("REASON_CLIENT_IP_MISSING, for reads too")

    answer = decide(ask(writer_secret, "203.0.113.200", scope="transactions.read"))
    denied(answer, "REASON_CLIENT_IP_NOT_WHITELISTED", "203.0.113.200")
    held("REASON_CLIENT_IP_NOT_WHITELISTED")

    bad = refused(CODE.INVALID_ARGUMENT, decide, ask(reader_secret, "192.0.2.300", scope="no.such.scope"))
    bad.names("client_ip", "scope")
    check(refused(CODE.INVALID_ARGUMENT, decide, ask(reader_secret, "192.0.2.3")).violations, "no violation")
    refused(CODE.INVALID_ARGUMENT, decide, ask("", "fe80::1%eth0", scope="transactions.read")).names("client_ip")
    held("malformed arguments are INVALID_ARGUMENT, also with a hostile token")

    # --- several at once
    questions = [
        ask(reader_secret, scope="transactions.read"),
        ask(reader_secret, "nowhere", scope="transactions.read"),
        ask(reader_secret, scope="transactions.send"),
        ask(writer_secret, "198.51.100.9", scope="transactions.send"),
    ]
    results = operator.BatchAuthorize(authz.BatchAuthorizeRequest(requests=questions)).results
    equal(len(results), 4, "results")
    allowed(results[0].response, reader, "transactions.read", "")
    is_item_error(results[1], code_pb2.INVALID_ARGUMENT, "client_ip")
    denied(results[2].response, "REASON_SCOPE_NOT_GRANTED", "transactions.send")
    allowed(results[3].response, writer, "transactions.send", "198.51.100.0/24")
    held("a batch: one bad item is its own error")

    many = authz.BatchAuthorizeRequest(requests=[questions[0]] * 1000)
    equal(len(operator.BatchAuthorize(many).results), 1000, "results of a full batch")
    many.requests.append(questions[0])
    refused(CODE.INVALID_ARGUMENT, operator.BatchAuthorize, many).names("requests")
    held("a batch of 1,000, and no more")

    answers = list(
        operator.StreamAuthorize(iter([authz.StreamAuthorizeRequest(request=question) for question in questions]))
    )
    equal(len(answers), 4, "answers")
    allowed(answers[0].response, reader, "transactions.read", "")
    is_item_error(answers[1], code_pb2.INVALID_ARGUMENT, "client_ip")
    denied(answers[2].response, "REASON_SCOPE_NOT_GRANTED", "transactions.send")
    allowed(answers[3].response, writer, "transactions.send", "198.51.100.0/24")
    held("a stream goes on after a bad item, in order")

    # --- lists
    extra = [create(name=f"extra {n}", kind=types.TOKEN_KIND_READ_ONLY)[0] for n in range(2)]
    wanted = [token.token_id for token in (writer, custom, reader, *extra)]
    seen, page, pages = [], "", 0
    while True:
        answer = operator.ListTokens(
            tokens.ListTokensRequest(account_id=account.account_id, page_size=2, page_token=page)
        )
        check(len(answer.tokens) <= 2, "a page of", len(answer.tokens))
        seen += [token.token_id for token in answer.tokens]
        page, pages = answer.next_page_token, pages + 1
        if not page:
            break
        check(pages < 10, "paging does not end")
    equal(seen, wanted, "the tokens of all pages, the oldest first")
    bad = tokens.ListTokensRequest(account_id=account.account_id, page_token="not a page")
    refused(CODE.INVALID_ARGUMENT, operator.ListTokens, bad).names("page_token")
    held("lists in pages")

    absent = account.account_id[:-1] + ("0" if account.account_id[-1] != "0" else "1")
    equal(list(operator.ListTokens(tokens.ListTokensRequest(account_id=absent)).tokens), [], "tokens of nobody")
    pending = operator.ListPendingActions(tokens.ListPendingActionsRequest(account_id=account.account_id))
    equal(list(pending.pending_actions), [], "pending actions of new tokens")
    events = operator.ListAuditEvents(tokens.ListAuditEventsRequest(account_id=account.account_id)).audit_events
    positions = [event.revision for event in events]
    check(len(positions) >= 10, "audit events:", len(positions))
    equal(positions, sorted(positions, reverse=True), "positions, the newest first")
    check(writer_secret not in str(events), "the audit record shows a secret")
    held("list filters never answer NOT_FOUND; the audit record is there")

    # --- who may
    nobody, stranger = Caller(channel, None), Caller(channel, uuid.uuid4().hex * 2)
    for caller in (nobody, stranger):
        refused(CODE.UNAUTHENTICATED, caller.Authorize, questions[0])
        refused(CODE.UNAUTHENTICATED, caller.CreateAccount, accounts.CreateAccountRequest())
    held("UNAUTHENTICATED")

    made = operator.CreateCredential(
        credentials.CreateCredentialRequest(role=credentials.ROLE_PEP, name="python story")
    )
    pep = Caller(channel, made.secret)
    allowed(pep.Authorize(questions[0]), reader, "transactions.read", "")
    refused(CODE.PERMISSION_DENIED, pep.CreateAccount, accounts.CreateAccountRequest(name="x", admin_emails=["a@example.com"]))
    refused(CODE.PERMISSION_DENIED, pep.GetToken, tokens.GetTokenRequest(token_id=writer.token_id))
    refused(CODE.PERMISSION_DENIED, pep.ListCredentials, credentials.ListCredentialsRequest())
    held("PERMISSION_DENIED: a pep only decides")

    made_admin = operator.CreateCredential(
        credentials.CreateCredentialRequest(role=credentials.ROLE_ACCOUNT_ADMIN, account_id=account.account_id)
    )
    admin = Caller(channel, made_admin.secret)
    equal(admin.GetToken(tokens.GetTokenRequest(token_id=writer.token_id)).token.name, "writer", "name")
    other = operator.CreateAccount(
        accounts.CreateAccountRequest(name="Another", admin_emails=["eve@example.com"])
    ).account
    refused(
        (CODE.NOT_FOUND, CODE.PERMISSION_DENIED),
        admin.CreateToken,
        tokens.CreateTokenRequest(account_id=other.account_id, name="x", kind=types.TOKEN_KIND_READ_ONLY),
    )
    refused(CODE.PERMISSION_DENIED, admin.CreateAccount, accounts.CreateAccountRequest(name="x", admin_emails=["a@example.com"]))
    held("an account admin reaches one account")

    revoked = operator.RevokeCredential(
        credentials.RevokeCredentialRequest(credential_id=made.credential.credential_id)
    )
    check(revoked.propagation.complete, "a revocation answered before it was bound")
    refused(CODE.UNAUTHENTICATED, pep.Authorize, questions[0])
    held("a revoked credential is UNAUTHENTICATED at once")

    # --- the end
    deleted = operator.DeleteToken(tokens.DeleteTokenRequest(token_id=custom.token_id))
    equal(deleted.token.state, types.TOKEN_STATE_DELETED, "state")
    check(deleted.propagation.complete, "a deletion answered before it was bound")
    answer = decide(ask(custom_secret, "203.0.113.7", http=reveal_path))
    denied(answer, "REASON_TOKEN_DELETED")
    equal(answer.token_id, custom.token_id, "token_id of a deleted token")
    again = operator.DeleteToken(tokens.DeleteTokenRequest(token_id=custom.token_id))
    check(again.propagation.complete, "a deletion already made did not wait")
    left = operator.ListTokens(tokens.ListTokensRequest(account_id=account.account_id)).tokens
    equal([token.token_id for token in left], [id for id in wanted if id != custom.token_id], "the tokens left")
    held("REASON_TOKEN_DELETED, as soon as the deletion returns; deleting twice succeeds")

    missing = custom.token_id[:-1] + ("0" if custom.token_id[-1] != "0" else "1")
    refused(CODE.NOT_FOUND, operator.GetToken, tokens.GetTokenRequest(token_id=missing))
    refused(CODE.NOT_FOUND, operator.DeleteToken, tokens.DeleteTokenRequest(token_id=missing))
    refused(CODE.NOT_FOUND, operator.ManageWhitelist, tokens.ManageWhitelistRequest(token_id=missing))
    refused(
        CODE.NOT_FOUND,
        operator.CreateToken,
        tokens.CreateTokenRequest(account_id=absent, name="x", kind=types.TOKEN_KIND_READ_ONLY),
    )
    held("NOT_FOUND for ids that a call acts on")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (Violation, grpc.RpcError) as error:
        print(f"VIOLATED  {error}", flush=True)
        raise
    print("the whole story held", flush=True)
