import pytest
import trustme

from relay_app.settings import SettingsError, Upstream
from relay_app.upstream.trust import check_ca_files


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
