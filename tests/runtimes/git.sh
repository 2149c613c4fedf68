# A repository made, committed to, cloned, repacked, pushed to over a pipe and over a socket.
set -eu
export HOME=/var GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b PATH=/usr/bin:/bin
cd /var
git init -q -b main one
cd one
for n in 1 2 3 4 5; do seq 1 2000 >file$n; git add .; git commit -qm "commit $n"; done
git gc -q --aggressive
git fsck --strict
git checkout -qb side HEAD~2; echo x >other; git add other; git commit -qm side; git checkout -q main; git merge -q -m merged side
cd ..
git clone -q one two
git clone -q --bare one bare.git
touch bare.git/git-daemon-export-ok
git -C bare.git config daemon.receivepack true
git daemon --listen=127.0.0.1 --port=9418 --base-path=/var --detach --reuseaddr
sleep 1
git clone -q git://127.0.0.1/bare.git three
cd three; echo y >third; git add third; git commit -qm third; git push -q origin main
test "$(git -C /var/bare.git rev-parse main)" = "$(git rev-parse HEAD)"
echo "RUNTIME OK $(git --version)"
