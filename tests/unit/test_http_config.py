"""The configuration of the API over TCP: what it takes, and what it refuses with a cure."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.agent.config import Config
from diagnose.errors import ConfigError
from diagnose.model import codec
from diagnose.web.place import Http


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        pytest.param("127.0.0.1:9411", ("127.0.0.1", 9411), id="IPv4"),
        pytest.param("[::1]:9411", ("::1", 9411), id="IPv6"),
    ],
)
def test_it_listens_where_it_is_told(listen, address):
    assert codec.convert({"http": {"listen": listen}}, Config).http.address == address


@pytest.mark.parametrize(
    ("listen", "cure"),
    [
        pytest.param("9411", "write it like 127.0.0.1:9411", id="no address"),
        pytest.param("localhost:9411", "write it like 127.0.0.1:9411", id="a name"),
        pytest.param("127.0.0.1:", "write it like 127.0.0.1:9411", id="no port"),
        pytest.param("127.0.0.1:99999", "write it like 127.0.0.1:9411", id="a port too large"),
        pytest.param("0.0.0.0:9411", "a token_file is needed", id="everywhere, without a token"),
    ],
)
def test_what_cannot_be_listened_on_is_refused_with_a_cure(listen, cure):
    with pytest.raises(msgspec.ValidationError, match=cure):
        codec.convert({"http": {"listen": listen}}, Config)


def test_a_token_is_the_first_line_of_its_file_and_long_enough(tmp_path):
    file = tmp_path / "token"
    http = Http(listen="0.0.0.0:9411", token_file=str(file))
    with pytest.raises(ConfigError, match=r"No such file.*openssl rand -hex 32"):
        http.token()
    file.write_text("0123456789abcde\n")
    with pytest.raises(ConfigError, match="less than 16 characters"):
        http.token()
    file.write_text("0123456789abcdef \nmore\n")
    assert http.token() == "0123456789abcdef"
