# A server made and started; InnoDB written by several clients over the socket and over TCP.
set -eu
cd /var
export PATH=/usr/sbin:/usr/bin:/bin
mkdir data
mariadbd --no-defaults --bootstrap --datadir=/var/data --innodb-use-native-aio=0 --skip-grant-tables >boot.log 2>&1 <<'SQL' || { cat boot.log; exit 1; }
create database app;
SQL
mariadbd --no-defaults --datadir=/var/data --socket=/var/db.sock --bind-address=127.0.0.1 --port=3306 \
  --pid-file=/var/db.pid --skip-grant-tables --skip-networking=0 >db.log 2>&1 &
n=0
until mariadb --no-defaults -S db.sock -e 'select 1' >/dev/null 2>&1; do
  n=$((n + 1)); [ $n -lt 60 ] || { cat db.log; exit 1; }; sleep 1
done
mariadb --no-defaults -S db.sock app -e 'create table t(n int primary key, words varchar(40)) engine=innodb'
for k in 1 2 3; do
  mariadb --no-defaults -h 127.0.0.1 -P 3306 app -e "insert into t select seq, md5(seq) from seq_${k}0000_to_${k}4999" &
  clients="${clients:-} $!"
done
for c in $clients; do wait "$c"; done
test "$(mariadb --no-defaults -S db.sock app -BNe 'select count(*) from t')" = 15000
mariadb --no-defaults -S db.sock -e shutdown
wait
echo "RUNTIME OK $(mariadbd --version)"
