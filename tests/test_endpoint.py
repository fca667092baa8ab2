"""How an endpoint is written: ``openai:URL#MODEL,key=value``, and what is refused without being shown."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ConfigError
from agentrl.policies.openai import parse_endpoint

KEY = "sk-test-0123456789abcdef"


def test_a_spec_is_a_url_a_model_and_options() -> None:
    found = parse_endpoint(
        'https://h:8/v1#org/m:x,concurrency=3,timeout_s=60,key=MY_KEY,price_in=1,price_out=2.5,extra={a="b,c", d=[1, 2]}'
    )
    assert (found.url, found.model, found.concurrency, found.timeout_s) == ("https://h:8/v1", "org/m:x", 3, 60.0)
    assert (found.key, found.price_in, found.price_out) == ("MY_KEY", 1.0, 2.5)
    assert found.extra == {"a": "b,c", "d": [1, 2]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "must begin with http:// or https://"),
        ("http://h/v1", "openai:URL#MODEL"),
        ("http://h/v1#", "openai:URL#MODEL"),
        ("ftp://h/v1#m", "must begin with http"),
        ("http:///v1#m", "and a host"),
        ("http://h:port/v1#m", "cannot be read"),
        ("http://h/v1#m,concurency=2", "no parameter 'concurency'. Did you mean 'concurrency'?"),
        ("http://h/v1#m,concurrency=0", "openai.concurrency: input should be greater than or equal to 1; got 0"),
        ("http://h/v1#m,concurrency=two", "openai.concurrency"),
        ("http://h/v1#m,timeout_s=inf", "openai.timeout_s"),
        ("http://h/v1#m,retries=-1", "openai.retries"),
        ("http://h/v1#m,concurrency", "'concurrency' is not a parameter"),
        ("http://h/v1#m,retries=1,retries=2", "'retries' is given twice"),
        ("http://h/v1#m,model=n", "'model' stands before the options"),
        ("http://h/v1#m,price_in=1", "price_in and price_out"),
        ("http://h/v1#m,price_cached=1", "price_in and price_out"),
        ('http://h/v1#m,extra={stream=true}', "extra cannot set 'stream'"),
        ('http://h/v1#m,extra={a=nan}', "extra cannot be written as JSON"),
        ('http://h/v1#m,extra={a=2020-01-01}', "extra cannot be written as JSON"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_be_used(spec: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(spec)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        f"http://h/v1#m,key={KEY}",
        f"http://h/v1#m,api_key={KEY}",
        f"http://h/v1#m,{KEY}",
        f"http://user:{KEY}@h/v1#m",
        f"http://{KEY}@h/v1#m",
        f"http://h/v1?key={KEY}#m",
        f"http://user:{KEY}@h:port/v1#m",
        f"http://user:{KEY}@h/v1",
    ],
)
def test_a_key_in_the_spec_is_refused_unseen(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(spec)
    assert KEY not in str(caught.value)


@given(st.text(max_size=40))
def test_a_spec_is_an_endpoint_or_a_configuration_error(text: str) -> None:
    for spec in (text, f"http://h/v1#m,{text}", f"http://h/v1#m,extra={text}"):
        try:
            endpoint = parse_endpoint(spec)
        except ConfigError as error:
            assert "Traceback" not in str(error)
        else:
            assert dataclasses.replace(endpoint) == endpoint and endpoint.model
