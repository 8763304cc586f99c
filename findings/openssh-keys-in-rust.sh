#!/usr/bin/env bash
# Rust's `ssh-key` refuses one in 512 of ssh-keygen's own P-256 keys, and every OpenSSH key that `cryptography` or PuTTY wrote.
#
# One would guess: the crate that reads OpenSSH private keys reads those that OpenSSH writes, and those that OpenSSH reads.
# What happens (ssh-key 0.6.7):
#   ssh-keygen (OpenSSH 9.2p1) writes the scalar of an ECDSA key as a number (`mpint`, RFC 4251): without leading zeros, so one P-256 key in 512
#     has 31 bytes or fewer. Those are refused with "length invalid". Python's cryptography 50.0.2 reads them.
#   Lines between BEGIN and END have to be 70 columns wide, as ssh-keygen writes them. cryptography and puttygen 0.78 write 64, as PEM is elsewhere
#     (RFC 7468), and are refused with "PEM Base64 error". ssh-keygen reads both.
# Why it matters: tests with a handful of fresh keys pass, and one user in 512 is told that the key is broken. Wrap the lines anew, and pad the
# scalar, before the crate sees them.
set -euo pipefail

tmp=$(mktemp -d)
pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap finish EXIT

changed=0
# What was asked, the answer on record, the answer of this run.
expect() {
    if [ "$2" = "$3" ]; then
        echo "as recorded: $1: $3"
    else
        echo "CHANGED: $1: recorded '$2', now '$3'"
        changed=1
    fi
}

ssh -V 2>&1 | grep -q '^OpenSSH_9\.2p1' || { echo 'needs OpenSSH 9.2p1' >&2; exit 2; }
puttygen --version | grep -q ' 0\.78$' || { echo 'needs puttygen 0.78' >&2; exit 2; }
command -v cargo >/dev/null || { echo 'needs cargo' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cryptography==50.0.2
mkdir -p "$tmp/read/src"
cat >"$tmp/read/Cargo.toml" <<'TOML'
[package]
name = "read"
version = "0.0.0"
edition = "2021"

[workspace]

[dependencies]
ssh-key = { version = "=0.6.7", default-features = false, features = ["alloc", "ecdsa"] }
TOML
cat >"$tmp/read/src/main.rs" <<'RUST'
fn main() {
    let file = std::env::args().nth(1).unwrap();
    match ssh_key::PrivateKey::from_openssh(std::fs::read(file).unwrap()) {
        Ok(_) => println!("read"),
        Err(error) => println!("{error}"),
    }
}
RUST
CARGO_TARGET_DIR="$tmp/target" cargo build --quiet --manifest-path "$tmp/read/Cargo.toml"
with_crate() { "$tmp/target/debug/read" "$1"; }
with_openssh() { if ssh-keygen -y -P '' -f "$1" >/dev/null 2>&1; then echo read; else echo refused; fi; }

# Makes keys until one has a short scalar; beside it, keys of the other programs.
cat >"$tmp/make.py" <<'PYTHON'
import os
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key

os.chdir(sys.argv[1])
os.umask(0o077)
for name in ("short", "full"):
    for _ in range(20_000):
        if os.path.exists(name):
            os.remove(name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", name], check=True, stdin=subprocess.DEVNULL)
        with open(name, "rb") as file:
            scalar = load_ssh_private_key(file.read(), None).private_numbers().private_value
        if (scalar.bit_length() <= 247) == (name == "short"):
            break
    else:
        sys.exit("no such key")
for name, key in {"ed25519": ed25519.Ed25519PrivateKey.generate(), "ecdsa": ec.generate_private_key(ec.SECP256R1())}.items():
    with open(f"cryptography-{name}", "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
PYTHON
timeout 50 "$tmp/venv/bin/python" "$tmp/make.py" "$tmp" 2>/dev/null
expect 'a full scalar of ssh-keygen: OpenSSH, ssh-key' 'read, read' "$(with_openssh "$tmp/full"), $(with_crate "$tmp/full")"
expect 'a short scalar of ssh-keygen: OpenSSH, ssh-key' 'read, length invalid' "$(with_openssh "$tmp/short"), $(with_crate "$tmp/short")"
for type in ed25519 ecdsa; do
    ssh-keygen -q -t "$type" -N '' -f "$tmp/openssh-$type"
    # The short ones apart.
    [ "$type" = ecdsa ] && cp "$tmp/full" "$tmp/openssh-ecdsa"
    (
        umask 077
        puttygen "$tmp/openssh-$type" -O private -o "$tmp/$type.ppk"
        puttygen "$tmp/$type.ppk" -O private-openssh-new -o "$tmp/puttygen-$type"
    )
    expect "$type of ssh-keygen: OpenSSH, ssh-key" 'read, read' "$(with_openssh "$tmp/openssh-$type"), $(with_crate "$tmp/openssh-$type")"
    for program in cryptography puttygen; do
        file="$tmp/$program-$type"
        expect "$type of $program: OpenSSH, ssh-key" 'read, PEM Base64 error: invalid Base64 encoding' "$(with_openssh "$file"), $(with_crate "$file")"
    done
done
fold_at_70() { (umask 077 && { head -n 1 "$1"; grep -v -e '^-----' "$1" | tr -d '\n' | fold -w 70; echo; tail -n 1 "$1"; } >"$1-70"); }
fold_at_70 "$tmp/cryptography-ed25519"
expect 'the same, in lines of 70 columns' read "$(with_crate "$tmp/cryptography-ed25519-70")"
exit "$changed"
