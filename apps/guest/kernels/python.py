"""Runs cells of Python in one namespace that lasts. Requests come as JSON lines on descriptor 4, what happens goes
out as JSON lines on descriptor 3; descriptors 1 and 2 are left to programs that a cell starts."""

import ast
import asyncio
import base64
import io
import json
import linecache
import os
import re
import sys
import threading
import traceback
import types

events = os.fdopen(3, "wb", buffering=0)
requests = os.fdopen(4, "r", encoding="utf-8")
for descriptor in (3, 4):
    os.set_inheritable(descriptor, False)
os.environ.setdefault("MPLBACKEND", "Agg")

lock = threading.RLock()
longest_text = 1 << 16


def emit(event):
    data = json.dumps(event, default=str).encode("ascii") + b"\n"
    with lock:
        while data:
            data = data[events.write(data) :]


class Output(io.TextIOBase):
    """Whole lines at once; the rest when it is flushed or the cell ends."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name, descriptor):
        self.name = name
        self.descriptor = descriptor
        self.pending = ""

    def writable(self):
        return True

    def fileno(self):
        return self.descriptor

    @property
    def buffer(self):
        self.flush()
        return os.fdopen(self.descriptor, "wb", buffering=0, closefd=False)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with lock:
            self.pending += text
            if "\n" in text or len(self.pending) > longest_text:
                self.flush()
        return len(text)

    def flush(self):
        with lock:
            text, self.pending = self.pending, ""
            for start in range(0, len(text), longest_text):
                emit({"type": self.name, "text": text[start : start + longest_text]})


sys.stdout = Output("stdout", 1)
sys.stderr = Output("stderr", 2)
sys.stdin = io.StringIO("")

main = types.ModuleType("__main__")
main.__dict__["__builtins__"] = __builtins__
sys.modules["__main__"] = main
sys.path[0] = ""
namespace = main.__dict__
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)

kinds = {
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
}


def as_text(value):
    return base64.b64encode(value).decode("ascii") if isinstance(value, (bytes, bytearray)) else value


def formats(value):
    """What the value offers of itself, by the names that notebooks use."""
    try:
        seen = {"text": value if isinstance(value, str) else repr(value)}
    except Exception as error:
        seen = {"text": f"<{type(value).__name__} without a representation: {error}>"}
    if isinstance(value, type):
        return seen
    try:
        bundle = value._repr_mimebundle_() if hasattr(value, "_repr_mimebundle_") else {}
        bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    except Exception:
        bundle = {}
    for name, kind in kinds.items():
        try:
            method = getattr(value, f"_repr_{name}_", None)
            found = method() if callable(method) else (bundle or {}).get(kind)
            found = found[0] if isinstance(found, tuple) else found
        except Exception:
            continue
        if found is not None:
            seen[name] = as_text(found)
    if type(value).__module__.startswith("pandas.") and hasattr(value, "to_dict"):
        try:
            seen["data"] = value.to_dict(orient="list") if value.ndim == 2 else value.to_dict()
        except Exception:
            pass
    return seen


def show(value, is_main=False):
    sys.stdout.flush()
    emit({"type": "result", "is_main_result": is_main, **formats(value)})


def display(*values, **_):
    for value in values:
        show(value)


namespace["display"] = display


def show_figures():
    plots = sys.modules.get("matplotlib.pyplot")
    if plots is None:
        return
    for number in plots.get_fignums():
        figure = plots.figure(number)
        image = io.BytesIO()
        figure.savefig(image, format="png", bbox_inches="tight")
        emit({"type": "result", "is_main_result": False, "text": repr(figure), "png": as_text(image.getvalue())})
    plots.close("all")


def shell(command):
    import subprocess

    sys.stdout.flush()
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as program:
        for line in io.TextIOWrapper(program.stdout, encoding="utf-8", errors="replace"):
            sys.stdout.write(line)


namespace["__shell__"] = shell


def without_magic(source):
    """The lines of notebooks that are no Python: `!command`, `%pip …`, `%cd …`."""

    def change(match):
        space, mark, rest = match.groups()
        if mark == "!":
            return f"{space}__shell__({rest!r})"
        word, _, argument = rest.partition(" ")
        if word == "pip":
            return f"{space}__shell__({f'{sys.executable} -m {rest}'!r})"
        if word == "cd":
            return f"{space}__import__('os').chdir({argument.strip() or '~'!r})"
        return match.group(0)

    return re.sub(r"^([ \t]*)([!%])(.+)$", change, source, flags=re.MULTILINE)


def parse(source, name):
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(source, name, "exec", flags, dont_inherit=True)
    except SyntaxError:
        changed = without_magic(source)
        if changed == source:
            raise
        return compile(changed, name, "exec", flags, dont_inherit=True)


def run(tree, name, mode):
    code = compile(tree, name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    value = eval(code, namespace)
    if code.co_flags & 0x80:  # A coroutine: there is an await outside of any function.
        value = loop.run_until_complete(value)
    return value


def run_cell(source, name):
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    tree = parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if tree.body:
        run(tree, name, "exec")
    if last is None:
        return
    value = run(ast.Expression(last.value), name, "eval")
    if value is not None and not source.rstrip().endswith(";"):
        namespace["_"] = value
        show(value, True)


def fail(error, name):
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != name:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    emit({"type": "error", "name": type(error).__name__, "value": str(error), "traceback": text})


count = 0
emit({"type": "ready"})
while True:
    try:
        line = requests.readline()
    except KeyboardInterrupt:
        continue
    if line == "":
        break
    request = json.loads(line)
    count += 1
    cell = f"<cell {count}>"
    before = {key: os.environ.get(key) for key in request["env"]}
    os.environ.update(request["env"])
    try:
        try:
            run_cell(request["code"], cell)
            show_figures()
        except BaseException as error:
            sys.stdout.flush()
            fail(error, cell)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        pass
    emit({"type": "number_of_executions", "execution_count": count})
    emit({"type": "done"})
