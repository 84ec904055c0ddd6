# Keeps a temporary Postgres server in the working folder until standard input ends. See cluster.rs.
set -eu
trap '' INT TERM HUP
bin=$1
{
  "$bin/initdb" --pgdata=data --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C
  printf '%s' "$SETTINGS" >>data/postgresql.conf
  printf '%s' "$LOGINS" >data/pg_hba.conf
  # The server looks for a relative socket folder in its data folder.
  printf "unix_socket_directories = '%s'\n" "$PWD" >>data/postgresql.conf
  "$bin/pg_ctl" --pgdata=data --wait --silent --log=log start
} >>log 2>&1 </dev/null
echo ready
cat >/dev/null
"$bin/pg_ctl" --pgdata=data --wait --silent --mode=immediate stop >/dev/null 2>&1 || true
rm -rf "$PWD"
