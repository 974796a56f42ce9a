"""Runs the README's Python blocks one after the other, as ``python -m asyncio`` would."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

_RUNNER = asyncio.Runner()


def _evaluate(example: Example) -> None:
    # the blank lines give an error the line that it has in the README
    source = "\n" * example.line + str(example.parsed)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        _RUNNER.run(eval(code, example.namespace))  # noqa: S307  # our own README
    else:
        exec(code, example.namespace)  # noqa: S102  # the same


@pytest.fixture(scope="session", autouse=True)
def _empty_directory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.chdir(tmp_path_factory.mktemp("readme"))
    yield
    _RUNNER.close()


pytest_collect_file = Sybil(
    path=str(Path(__file__).parent),
    parsers=[CodeBlockParser(language="python", evaluator=_evaluate)],
    patterns=["README.md"],
    fixtures=["_empty_directory"],
).pytest()
