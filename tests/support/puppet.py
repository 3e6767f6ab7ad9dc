"""A process on strings: ``python puppet.py SOCKET`` runs the code that a test sends it.

It imports the standard library only: what else it is, the code decides. ``fork()`` and
``reincarnate()`` in that code make a new process, or a new program in this one, that is
a puppet as well. When the test lets go of the string the puppet ends, as scripts do.
"""

from __future__ import annotations

import ast
import json
import os
import socket
import sys
import traceback
from typing import Any


class Puppet:
    """The end of the string in the process that does as it is told."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.space: dict[str, Any] = {"fork": self.fork, "reincarnate": self.reincarnate}
        self.sock = self.connect()

    def connect(self) -> socket.socket:
        """Take up a string, and say who holds it."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.sendall(f"{os.getpid()}\n".encode())
        return sock

    def serve(self) -> None:
        """Do as told until the string is let go."""
        with self.sock, self.sock.makefile("r") as orders:
            for line in orders:
                answer = json.dumps(self.perform(json.loads(line)), default=repr)
                self.sock.sendall(f"{answer}\n".encode())

    def perform(self, code: str) -> dict[str, Any]:
        """Run code; return the value of its last expression, or what it raised."""
        try:
            return {"value": self.run(code)}
        except BaseException as error:
            known = hasattr(error, "details")
            text = str(error) if known else traceback.format_exc()
            return {"error": type(error).__name__, "text": text, "known": known}

    def run(self, code: str) -> Any:
        """Run code; return the value of its last line, if that is an expression."""
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<test>", "exec"), self.space)
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), "<test>", "eval"), self.space)  # type: ignore[attr-defined]  # an Expr has a value

    def fork(self) -> int:
        """Fork; the child is a puppet of its own."""
        child = os.fork()
        if child == 0:
            self.sock.close()
            self.sock = self.connect()
            self.serve()
            os._exit(0)
        return child

    def reincarnate(self) -> None:
        """Become a new program with the same process id."""
        os.execv(sys.executable, [sys.executable, __file__, self.path])


if __name__ == "__main__":
    Puppet(sys.argv[1]).serve()
