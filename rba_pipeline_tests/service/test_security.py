"""Keys are compared in a time that tells nothing about them."""

import ast
import inspect

import pytest

from embedding_service.api import security


@pytest.mark.case("S15")
def test_what_is_shown_meets_the_keys_only_in_compare_digest() -> None:
    tree = ast.parse(inspect.getsource(security))

    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    compared = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert calls.count("hmac.compare_digest") == 1
    assert not [text for text in compared if "token" in text or "found" in text or "digest" in text]
    assert not [text for text in compared if "key" in text]
