import ssl

import pytest
import trustme

from relay_app.settings import SettingsError, Upstream
from relay_app.settings_file import settings_from_toml
from relay_app.upstream.trust import check_ca_files, verifying_context, warn_of_clear_text


def complaint(path: str) -> str:
    upstreams = Upstream("a", "wss://h"), Upstream("b", "wss://h", ca_file=path)
    with pytest.raises(SettingsError) as caught:
        check_ca_files(upstreams, "relay.toml")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_bundle_of_certificates_is_taken(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(trustme.CA().cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    check_ca_files([Upstream("a", "wss://h", ca_file=str(bundle))], "relay.toml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    said = complaint(str(tmp_path / "none.pem"))
    assert said == (
        f"relay.toml: upstreams[1].ca_file = '{tmp_path}/none.pem': cannot be read (No such file "
        "or directory): expected the path of a PEM file of certificates"
    )
    assert "Is a directory" in complaint(str(tmp_path)) or "no PEM" in complaint(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n",
     trustme.CA().private_key_pem.bytes()],
)  # fmt: skip
def test_a_file_without_certificates_is_named_and_not_shown(tmp_path, content):
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    said = complaint(str(path))
    assert f"upstreams[1].ca_file = '{path}': no PEM certificate in it: expected" in said


@pytest.mark.parametrize(
    "name",
    ["verify", "verify_ssl", "tls_verify", "ssl_verify", "insecure", "insecure_skip_verify",
     "check_hostname", "tls"],
)  # fmt: skip
def test_no_setting_turns_verification_off(name):
    text = f'[[upstreams]]\nname="u"\nbase_url="wss://h"\napi_keys=["k"]\n{name}=false\n'
    with pytest.raises(SettingsError, match=f"{name} is not a setting"):
        settings_from_toml(text)


def test_what_turns_it_off_for_others_does_not_here(monkeypatch):
    """Neither the variables of Python and its HTTP clients, nor the well-known patch."""
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    context = verifying_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_who_is_asked_without_tls_over_a_network_is_named(caplog):
    urls = {
        "far": "ws://provider.example/v1",
        "far-http": "http://192.0.2.1:8080",
        "tls": "wss://provider.example/v1",
        "here": "ws://127.0.0.1:9000/v1",
        "here-6": "ws://[::1]:9000/v1",
        "here-by-name": "http://localhost:9000",
    }
    warn_of_clear_text(Upstream(name, url) for name, url in urls.items())
    assert [message.split()[1] for message in caplog.messages] == ["far", "far-http"]
    assert all(record.levelname == "WARNING" for record in caplog.records)
