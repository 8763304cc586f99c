#!/usr/bin/env bash
# MariaDB: a COMMIT that `read_only` refuses throws the transaction away, and the next COMMIT says OK.
#
# One would guess: `read_only`, which a switchover sets for a moment on the old primary, keeps new writes out. A transaction that is open when it
# is set either may still commit, or is told "cannot execute this statement" (1290) and stands as it was: once `read_only` is off again, COMMIT works.
# What happens (MariaDB 10.11): INSERT in an open transaction, then `SET GLOBAL read_only = 1` in another session, which waits for nobody. COMMIT
# fails with 1290, and has rolled back: `@@in_transaction` is 0, the row is gone from the session's own view, and a second COMMIT succeeds with
# nothing to commit, also while `read_only` is on. A transaction that has only read commits as ever.
# Why it matters: 1290 reads like an error of a statement, after which a transaction goes on. Who tries the COMMIT again, or goes on in the session and
# commits later, is told OK for a write that is lost. After 1290 at COMMIT the whole transaction has to be done again, as after a deadlock.
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

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
{ mariadbd --version | grep -q ' 10\.11\.'; } 2>/dev/null || { echo 'needs MariaDB 10.11' >&2; exit 2; }
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check PyMySQL==1.2.4
mariadb-install-db --no-defaults --datadir="$tmp/data" --auth-root-authentication-method=normal --user="$(id -un)" >/dev/null 2>&1
mariadbd --no-defaults --datadir="$tmp/data" --socket="$tmp/socket" --pid-file="$tmp/pid" --skip-networking --user="$(id -un)" 2>"$tmp/log" &
pids+=($!)
for _ in $(seq 200); do
    mariadb --no-defaults --socket="$tmp/socket" --user=root --execute='SELECT 1' >/dev/null 2>&1 && break
    sleep 0.1
done

cat >"$tmp/commit.py" <<'PYTHON'
import sys

import pymysql


def session(user, **more):
    return pymysql.connect(unix_socket=sys.argv[1], user=user, **more)


def answer(statement, connection):
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement)
            rows = cursor.fetchall()
            return str(rows[0][0]) if rows else "OK"
        except pymysql.MySQLError as error:
            return str(error.args[0])


root = session("root", autocommit=True)
for statement in [
    "CREATE DATABASE d",
    "CREATE TABLE d.t (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE USER app@localhost IDENTIFIED BY 'app'",
    "GRANT ALL ON d.* TO app@localhost",
]:
    answer(statement, root)
# No administrator: for those `read_only` does not count.
app = session("app", password="app")


def go(name, *statements):
    print(f"{name}: {', '.join(answer(statement, app) for statement in statements)}")


go("open", "START TRANSACTION", "INSERT INTO d.t VALUES (1)", "SELECT @@in_transaction")
print(f"set: {answer('SET GLOBAL read_only = 1', root)}")
go("commit", "COMMIT", "SELECT @@in_transaction", "SELECT COUNT(*) FROM d.t")
go("again", "COMMIT")
go("reader", "START TRANSACTION", "SELECT COUNT(*) FROM d.t", "COMMIT")
print(f"reset: {answer('SET GLOBAL read_only = 0', root)}")
go("later", "COMMIT")
print(f"rows: {answer('SELECT COUNT(*) FROM d.t', root)}")
PYTHON
timeout 30 "$tmp/venv/bin/python" "$tmp/commit.py" "$tmp/socket" >"$tmp/seen"
seen() { sed -n "s/^$1: //p" "$tmp/seen"; }
expect 'START TRANSACTION, INSERT, @@in_transaction' 'OK, OK, 1' "$(seen open)"
expect 'read_only = 1 by another session' OK "$(seen set)"
expect 'COMMIT, @@in_transaction, rows' '1290, 0, 0' "$(seen commit)"
expect 'COMMIT again' OK "$(seen again)"
expect 'START TRANSACTION, rows, COMMIT' 'OK, 0, OK' "$(seen reader)"
expect 'read_only = 0' OK "$(seen reset)"
expect 'COMMIT once more' OK "$(seen later)"
expect 'rows in the end' 0 "$(seen rows)"
exit "$changed"
