"""Keys as `cryptography` and PyCryptodome write them, in every format that they have for the kinds of key that Countersign takes.

    key_makers.py FOLDER PASSPHRASE    writes NAME (private, plain), NAME.encrypted (private) and NAME.pub
"""

import pathlib
import sys

from Crypto.PublicKey import ECC, RSA
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

FOLDER = pathlib.Path(sys.argv[1])
PASSPHRASE = sys.argv[2]


def write(name, content):
    (FOLDER / name).write_bytes(content.encode() if isinstance(content, str) else content)


def of_cryptography():
    keys = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    for kind, key in keys.items():
        for form, format in (
            ("pkcs8", PrivateFormat.PKCS8),
            ("openssh", PrivateFormat.OpenSSH),
            ("traditional", PrivateFormat.TraditionalOpenSSL),
        ):
            if kind == "ed25519" and format is PrivateFormat.TraditionalOpenSSL:
                continue
            name = f"cryptography-{kind}-{form}"
            write(name, key.private_bytes(Encoding.PEM, format, NoEncryption()))
            # The traditional one is encrypted by a single round of MD5: it is refused, which other tests show.
            if format is not PrivateFormat.TraditionalOpenSSL:
                write(f"{name}.encrypted", key.private_bytes(Encoding.PEM, format, BestAvailableEncryption(PASSPHRASE.encode())))
            public = (Encoding.OpenSSH, PublicFormat.OpenSSH)
            if format is not PrivateFormat.OpenSSH:
                public = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            write(f"{name}.pub", key.public_key().public_bytes(*public))


def of_pycryptodome():
    rsa_key = RSA.generate(2048)
    write("pycryptodome-rsa", rsa_key.export_key())
    write("pycryptodome-rsa.pub", rsa_key.public_key().export_key())
    write("pycryptodome-rsa-pkcs8", rsa_key.export_key(pkcs=8))
    write("pycryptodome-rsa-pkcs8.pub", rsa_key.public_key().export_key(format="OpenSSH"))
    for protection in (
        "PBKDF2WithHMAC-SHA1AndDES-EDE3-CBC",
        "PBKDF2WithHMAC-SHA1AndAES128-CBC",
        "PBKDF2WithHMAC-SHA256AndAES192-CBC",
        "PBKDF2WithHMAC-SHA512AndAES256-CBC",
        "scryptAndAES128-CBC",
    ):
        name = f"pycryptodome-rsa-{protection}"
        # Its own default for scrypt is 16 MB, and what OpenSSL refuses is more.
        write(f"{name}.encrypted", rsa_key.export_key(pkcs=8, passphrase=PASSPHRASE, protection=protection))
        write(f"{name}.pub", rsa_key.public_key().export_key())
    for kind, curve in (("p256", "p256"), ("p384", "p384"), ("ed25519", "ed25519")):
        key = ECC.generate(curve=curve)
        name = f"pycryptodome-{kind}"
        write(name, key.export_key(format="PEM"))
        write(f"{name}.pub", key.public_key().export_key(format="OpenSSH"))
        write(
            f"{name}.encrypted",
            key.export_key(format="PEM", passphrase=PASSPHRASE, use_pkcs8=True, protection="PBKDF2WithHMAC-SHA1AndAES128-CBC"),
        )


of_cryptography()
of_pycryptodome()
