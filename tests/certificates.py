"""PEM files for tests of encrypted connections."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

AUTHORITIES = ("ca", "other")


def write_certificates(folder):
  """NAME.crt and NAME.key: the authorities "ca" and "other"; "server" and "client", certified by the first."""
  keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in (*AUTHORITIES, "server", "client")}
  for name, key in keys.items():
    issuer = name if name in AUTHORITIES else "ca"
    certificate = _certificate(name, key, issuer, keys[issuer])
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
      key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
      )
    )
  return folder


def _certificate(name, key, issuer, issuer_key):
  """For localhost and 127.0.0.1, valid for an hour."""
  now = datetime.datetime.now(datetime.timezone.utc)
  names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
  return (
    x509.CertificateBuilder()
    .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(hours=1))
    .not_valid_after(now + datetime.timedelta(hours=1))
    .add_extension(x509.BasicConstraints(ca=issuer == name, path_length=None), critical=True)
    .add_extension(x509.SubjectAlternativeName(names), critical=False)
    .sign(issuer_key, hashes.SHA256())
  )
