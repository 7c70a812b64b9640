"""Which proxy is named for which address, by the environment and nothing else. Pure."""

from __future__ import annotations

import pytest

from batchgen.errors import SettingsError
from batchgen.http.proxies import Proxy, bypass_variable, proxy_for, proxy_passwords

API = "https://api.example.com/v1"
BY = {"HTTPS_PROXY": "http://proxy.corp:3128"}


def url_of(proxy: Proxy | None) -> str:
    return proxy.url if proxy else ""


@pytest.mark.parametrize(
    ("environ", "url", "found"),
    [
        ({}, API, ""),
        (BY, API, "http://proxy.corp:3128"),
        ({"https_proxy": "http://small:1", **BY}, API, "http://small:1"),
        ({"https_proxy": "", **BY}, API, "http://proxy.corp:3128"),
        ({"HTTP_PROXY": "http://plain:1"}, API, ""),
        ({"HTTP_PROXY": "http://plain:1"}, "http://api.example.com", "http://plain:1"),
        ({"ALL_PROXY": "http://all:1"}, API, "http://all:1"),
        ({"ALL_PROXY": "http://all:1", **BY}, API, "http://proxy.corp:3128"),
        ({"all_proxy": "socks://all:1", **BY}, API, "http://proxy.corp:3128"),
        ({"HTTPS_PROXY": "proxy.corp:3128"}, API, "http://proxy.corp:3128"),
        ({"HTTPS_PROXY": "proxy.corp"}, API, "http://proxy.corp:80"),
        ({"HTTPS_PROXY": "https://proxy.corp"}, API, "https://proxy.corp:443"),
        ({"HTTPS_PROXY": "http://[::1]:3128/"}, API, "http://[::1]:3128"),
        ({"HTTPS_PROXY": "http://me:a%40b@proxy.corp:1"}, API, "http://proxy.corp:1"),
    ],
)
def test_the_variable_of_the_scheme_is_taken_and_then_the_one_for_all(environ, url, found):
    assert url_of(proxy_for(url, environ)) == found


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8080", "http://localhost", "https://[::1]:1/x", "https://127.8.9.1", "https://localhost./"),
        "http://169.254.169.254",
    ],
)
def test_what_is_on_this_machine_or_link_local_never_has_a_proxy(url):
    every = dict.fromkeys(["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"], "http://proxy.corp:3128")
    assert proxy_for(url, every) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("api.example.com", API, True),
        ("API.Example.COM", API, True),
        ("example.com", API, True),
        (".example.com", API, True),
        ("*.example.com", API, True),
        ("*", API, True),
        ("other.com, example.com", API, True),
        ("other.com example.com", API, True),
        ("example.com:443", API, True),
        ("example.com:8443", API, False),
        ("ample.com", API, False),
        ("api", API, False),
        ("", API, False),
        (".", API, False),
        ("*.", API, False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("10.1.2.3:443", "https://10.1.2.3:8443", False),
        ("2.3", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00:0::1]", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("[fd00::1]:80", "https://[fd00::1]", False),
        ("10.0.0.0/8", API, False),
        ("[x,:::,/", API, False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_names_hosts_domains_networks_and_ports(no_proxy, url, direct, name):
    environ = {**BY, name: no_proxy}
    assert (proxy_for(url, environ) is None, bypass_variable(url, environ)) == (direct, name if direct else "")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "ftp://proxy",
        "http://",
        "http://proxy:99999",
        "http://proxy:abc",
        "http://[::1",
        "http://pro xy:1",
        "http://me:hush@proxy:abc",
        "proxy:abc",
        "http://proxy:1\x7f",
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_setting_to_correct_and_shows_no_password(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: ") as error:
        proxy_for(API, {name: value})
    assert "hush" not in str(error.value)


def test_credentials_are_in_the_header_and_in_nothing_that_is_shown():
    proxy = proxy_for(API, {"HTTPS_PROXY": "http://me:hush%20hush@proxy.corp:3128"})
    assert proxy is not None
    assert proxy.headers == {"Proxy-Authorization": "Basic bWU6aHVzaCBodXNo"}
    assert "hush" not in f"{proxy} {proxy!r}" and "bWU6" not in repr(proxy)
    for scheme in ("http://", ""):
        given = {"HTTPS_PROXY": f"{scheme}me:hush%20hush@proxy.corp:3128"}
        assert proxy_passwords(given) == {"hush%20hush", "hush hush"}
