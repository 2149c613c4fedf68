#!/bin/sh
# The main job, inside a container: start the server, install an app, make a grain, write to it and
# read it back by HTTP, see that it has its sandbox, stop. Prints CONTAINER OK, or what went wrong.
set -eu
[ -e /dufs.spk ] || { echo "CONTAINER SKIPPED: this is no container that a script beside this one has made"; exit 77; }
PATH=/opt/sandstorm:/bin:/usr/bin
export SANDSTORM_HOME=/var/sandstorm/home PORT=3456
fail() { echo "CONTAINER FAILED: $*"; cat /tmp/serve.log 2>/dev/null | tail -n 30; exit 1; }
field() { tr -d ' \n' | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# Not root: a container's root has fewer rights than its number says.
echo "uid $(id -u)"
shell serve >/tmp/serve.log 2>&1 &
server=$!
n=0
until [ -S $SANDSTORM_HOME/shell.socket ] && nc -w 1 127.0.0.1 $PORT </dev/null 2>/dev/null; do
    n=$((n + 1)); [ $n -lt 60 ] || fail "the server does not listen"
    kill -0 $server 2>/dev/null || fail "the server ended"
    sleep 0.5
done
app=$(shell app install /dufs.spk --json | field appId) && [ -n "$app" ] || fail "the app was not installed"
grain=$(shell grain create --app "$app" --json | field grainId) && [ -n "$grain" ] || fail "no grain was made"
session=$(shell grain session "$grain" --json) || fail "no session was opened"
host=$(echo "$session" | field origin | sed 's#http://##')
cookie=$(echo "$session" | field cookie)

ask() { # METHOD PATH BODY
    # The pause: nc closes its half with its input, which a server takes for a client that has left.
    {
        printf '%s %s HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nCookie: %s\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
            "$1" "$2" "$host" "$host" "$cookie" "${#3}" "$3"
        sleep 2
    } | nc -w 20 127.0.0.1 $PORT
}
ask PUT /note.txt 'kept in a container' | head -n 1 | grep -q ' 20[0-9]' || fail "the file was not written: $(ask PUT /note.txt x | head -n 12)"
ask GET /note.txt '' | grep -q 'kept in a container' || fail "the file was not read back"
shell grain stop "$grain" >/dev/null || fail "the grain did not stop"
ask GET /note.txt '' | grep -q 'kept in a container' || fail "the grain did not wake up with its data"
log="$SANDSTORM_HOME/grains/$grain/log"
grep 'SANDSTORM SUPERVISOR' "$log" | sed 's/^.*SANDSTORM SUPERVISOR: /grain: /' | sed -n '1,6p'
kill $server
echo "CONTAINER OK"
