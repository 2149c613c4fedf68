# Two processes on one database in WAL mode, then a backup and a check.
set -eu
cd /var
sqlite3 db 'pragma journal_mode=wal; create table t(n integer);' >/dev/null
fill() { n=0; while [ $n -lt 200 ]; do sqlite3 -cmd '.timeout 10000' db "insert into t values($n)"; n=$((n + 1)); done; }
fill & first=$!
fill
wait $first
test "$(sqlite3 db 'select count(*), sum(n) from t')" = '400|39800'
sqlite3 db '.backup copy' 'vacuum'
test "$(sqlite3 copy 'pragma integrity_check')" = ok
echo "RUNTIME OK sqlite $(sqlite3 --version | cut -d' ' -f1)"
