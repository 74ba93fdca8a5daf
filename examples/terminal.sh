#!/bin/sh
# Prints what a terminal of 80 columns shows of a short session, with its colours, for `examples/picture.rs`. Needs the binaries
# of `cargo build` and `script` of util-linux.
set -eu
bin=$(cd "$(dirname "$0")/.." && pwd)/target/debug
PATH=$bin:$PATH
home=$(mktemp -d)
cd "$home"
export HOME="$home" LATCHKEY_LISTEN=127.0.0.1:0 LATCHKEY_HTTP_LISTEN=off LATCHKEY_PAGES_LISTEN=off
latchkeyd >log 2>&1 &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$home"' EXIT
until grep -q ' grpc=' log; do sleep 0.1; done
export LATCHKEY_SOCKET=./latchkey-data/latchkey.sock
quiet() { latchkey "$@" >/dev/null; }
quiet users create ada --name "Ada Lovelace" --email ada@example.com --temporary-password
quiet users create grace --name "Grace Hopper" --email grace@example.com --temporary-password
echo "seven purple otters" | quiet users create alan --name "Alan Turing" --password-stdin --lasting
quiet users create linus --name "Linus Ek"
cat >session <<'END'
shown() { printf '\033[1m$ %s\033[0m\n' "$*"; "$@" 2>&1; }
stty cols 80
shown latchkey users lock ada --note 'laptop left on a train' --yes
shown latchkey users list --attention
shown latchkey users unlock ada --note 'laptop found'
END
script -qec "bash ./session" /dev/null </dev/null | sed "s/ --note laptop left on a train/ --note 'laptop left on a train'/; s/ --note laptop found/ --note 'laptop found'/"
