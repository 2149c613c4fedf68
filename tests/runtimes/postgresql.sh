# A cluster made and started; several clients; an index; a crash and its recovery.
set -eu
cd /var
bin=$(echo /usr/lib/postgresql/*/bin)
export PATH=$bin:/usr/bin:/bin LC_ALL=C PGHOST=/var PGUSER=app PGDATABASE=postgres
initdb -D data -U app --auth=trust -E UTF8 >init.log 2>&1 || { cat init.log; exit 1; }
start() { pg_ctl -D data -w -t 60 -l pg.log -o "-k /var -h 127.0.0.1 -p 5432" start >/dev/null || { cat pg.log; exit 1; }; }
start
psql -qc 'create table t(n integer primary key, words text)'
for k in 1 2 3; do
  psql -qc "insert into t select g, md5(g::text) from generate_series($k * 10000, $k * 10000 + 4999) g" &
done
wait
test "$(psql -Atc 'select count(*) from t')" = 15000
test "$(psql -h 127.0.0.1 -Atc 'select count(distinct words) from t')" = 15000
psql -qc 'create index on t(words)' -c 'set max_parallel_workers_per_gather = 2; select sum(n) from t' >/dev/null
pg_ctl -D data -m immediate stop >/dev/null
start
test "$(psql -Atc 'select count(*) from t')" = 15000
pg_ctl -D data -m fast stop >/dev/null
echo "RUNTIME OK $(postgres --version)"
