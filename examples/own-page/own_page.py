"""Pages of your own for the links in latchkey's mails. See README.md."""
import argparse
import os
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from latchkey.v1 import auth_pb2, auth_pb2_grpc, user_pb2

FORM_MAX = 16 * 1024
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # The URL has the token.
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
# What each code of latchkey is here; all else is 503. Every dead link gets the same page.
STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: (410, "This link does not work any more", "Use the link in the newest mail."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "Too many tries", "Wait a minute, then try again."),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "This cannot be right", "Check what you have typed."),
}
FORGOT = '<p><a href="forgot">Have a new link sent to you</a></p>'
# What a user can do about it, unlike about a dead link.
CODES = {
    "SECOND_FACTOR_REQUIRED": "enter a code of your authenticator app, or a recovery code",
    "SECOND_FACTOR_REJECTED": "this code is wrong, or was used before; wait for the next one",
}
BUTTONS = {"/verify": "This is my address", "/cancel": "I did not ask for this"}


def details(error, kind):
    """Returns the details of this kind."""
    status = rpc_status.from_call(error)
    packed = status.details if status else []
    return [kind.FromString(any.value) for any in packed if any.Is(kind.DESCRIPTOR)]


def proof(code):
    """Reads the field of a code: six digits are of the authenticator, anything else is a recovery code."""
    code = "".join(code.split())
    if not code:
        return None
    is_totp = len(code) == 6 and code.isascii() and code.isdecimal()
    return user_pb2.SecondFactorProof(**{"totp" if is_totp else "recovery_code": code})


class Pages(BaseHTTPRequestHandler):
    timeout = 10  # Seconds for a client to send its request.

    def do_GET(self):  # Only shows: mail scanners open links.
        self.serve(self.show)

    def do_POST(self):
        self.serve(self.act)

    def serve(self, handle):
        try:
            handle(urlsplit(self.path).path)
        except grpc.RpcError as error:
            default = (503, "This does not work at the moment", "Try again later.")
            status, title, text = STATUS.get(error.code(), default)
            self.answer(status, title, f"<p>{text}</p>{FORGOT if status == 410 else ''}")

    def show(self, page):
        token = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if page in ("/reset", "/invite"):
            self.choose(200, token, [])
        elif page in BUTTONS:
            self.answer(200, BUTTONS[page] + "?", self.form(token, "", BUTTONS[page]))
        elif page == "/forgot":
            field = '<p><label>Username or address <input name="login" autocomplete="username" required></label></p>'
            self.answer(200, "Password forgotten", self.form("", field, "Send me a link"))
        elif page == "/used":
            text = "<p>Was it not you? Then somebody else can read your mail. Tell the people who help you at once.</p>"
            self.answer(200, "The link has been used already", text)
        elif page == "/done":
            self.answer(200, "Done", "<p>You can close this page and sign in.</p>")
        else:
            self.answer(404, "There is no such page")

    def act(self, page):
        fields = self.fields()
        if fields is None:
            return
        token = fields.get("token", "")
        if page in ("/reset", "/invite"):
            problems = self.set_password(token, fields.get("new", ""), fields.get("again", ""), fields.get("code", ""))
            if problems:
                return self.choose(422, token, problems)
        elif page == "/verify":
            self.call("VerifyEmail", auth_pb2.VerifyEmailRequest(link_token=token))
        elif page == "/cancel":
            cancelled = self.call("CancelLink", auth_pb2.CancelLinkRequest(cancel_token=token))
            if cancelled.HasField("used_time"):
                return self.answer(303, "Done", location="used")
        elif page == "/forgot":
            self.call("RequestPasswordReset", auth_pb2.RequestPasswordResetRequest(login=fields.get("login", "")))
            text = "<p>If there is such an account with an address, a link is on its way. Look into the spam folder, too.</p>"
            return self.answer(200, "Look into your mail", text)  # The same for every name.
        else:
            return self.answer(404, "There is no such page")
        self.answer(303, "Done", location="done")  # Reloading sends nothing again.

    def choose(self, status, token, problems):
        """Asks for a new password, and says what is wrong with the last one."""
        link = self.call("InspectLink", auth_pb2.InspectLinkRequest(link_token=token))
        if link.kind == user_pb2.DELIVERY_KIND_EMAIL_VERIFICATION:
            return self.answer(404, "This link is for another page")
        rules = f"At least {link.rules.min_length} characters, at most {link.rules.max_length}. Several words are fine."
        mistakes = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        mistakes = f'<ul role="alert">{mistakes}</ul>' if mistakes else ""
        entry = '<input type="password" autocomplete="new-password" required'
        inputs = (
            f'<input type="text" value="{escape(link.username)}" autocomplete="username" readonly hidden>'
            f'<p><label>New password {entry} name="new"></label></p><p><label>Once more {entry} name="again"></label></p>'
        )
        if link.second_factor_methods:
            code = '<input name="code" autocomplete="one-time-code" required>'
            inputs += f"<p><label>Code of your authenticator app, or a recovery code {code}</label></p>"
        title = f"Choose a password, {link.username}"
        self.answer(status, title, f"{mistakes}<p>{rules}</p>{self.form(token, inputs, 'Set the password')}")

    def set_password(self, token, new, again, code):
        """Sets the password. Returns what is wrong with it; nothing if it is set."""
        if new != again:
            return ["the two passwords differ"]
        request = auth_pb2.CompletePasswordResetRequest(link_token=token, new_password=new, second_factor=proof(code))
        try:
            self.call("CompletePasswordReset", request)
        except grpc.RpcError as error:
            reason = "".join(info.reason for info in details(error, error_details_pb2.ErrorInfo))
            if reason in CODES:
                return [CODES[reason]]
            if reason != "PASSWORD_REJECTED":
                raise
            bad = details(error, error_details_pb2.BadRequest)
            return [violation.description for found in bad for violation in found.field_violations]
        return []

    def call(self, method, request):
        """Calls latchkey, which limits users by address if it knows this application."""
        app = os.environ.get("LATCHKEY_APP_TOKEN")
        known = [("latchkey-app", app), ("latchkey-client-address", self.client_address[0])] if app else []
        return getattr(self.server.auth, method)(request, timeout=12, metadata=known)

    def fields(self):
        """Returns the fields of the form. Answers by itself, and returns None, if the request is not from these pages."""
        site, origin = self.headers.get("Sec-Fetch-Site", "same-origin"), self.headers.get("Origin", "null")
        length = self.headers.get("Content-Length", "")
        if site != "same-origin" or origin not in ("null", self.server.origin):
            self.answer(403, "This came from another site")
        elif not length.isdecimal() or int(length) > FORM_MAX:
            self.answer(413, "This form is too large")
        else:
            try:
                form = parse_qs(self.rfile.read(int(length)).decode(), errors="strict")
                return {name: values[0] for name, values in form.items()}
            except UnicodeError:  # A replaced character would make it another password.
                self.answer(400, "This is not a form")
        return None

    @staticmethod
    def form(token, inputs, button):
        hidden = f'<input type="hidden" name="token" value="{escape(token)}">' if token else ""
        return f'<form method="post">{hidden}{inputs}<p><button>{button}</button></p></form>'

    def answer(self, status, title, content="", location=None):
        title = escape(title)
        head = f'<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        body = f"{head}<main><h1>{title}</h1>{content}</main></html>".encode()
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Length": len(body), "Location": location}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        print(self.command, urlsplit(self.path).path, int(code), flush=True)  # Without the query: it has the token.

    def log_error(self, *_):
        pass  # Its text may quote the request line.


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", help="address of these pages; put TLS in front of them")
    parser.add_argument("--origin", help="origin in browsers, such as https://my.example.org")
    options = parser.parse_args()
    host, port = options.listen.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Pages)
    server.origin = options.origin or f"http://{host}:{server.server_port}"
    target, ca = os.environ.get("TARGET", "127.0.0.1:50051"), os.environ.get("LATCHKEY_TLS_CA")
    if ca:
        with open(ca, "rb") as file:
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(target)  # Only for loopback: passwords cross it.
    server.auth = auth_pb2_grpc.AuthStub(channel)
    print(f"listening on {server.origin}", flush=True)
    server.serve_forever()


main()
