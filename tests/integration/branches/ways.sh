# Ways of reaching a protected branch, the developer's work, or their git's configuration. Each row: `## name | transports`, `all` or some of
# http ssh file daemon; `local` rows need no remote and are run once. The current folder is the session's clone (in the control: the
# developer's checkout), P the developer's checkout, URL the remote as the developer spells it, GATE the clone's own URL. Every row
# starts on a clean branch `work`, and $w is a commit that no branch has.

## commit on it | local
git switch -q main && git commit -q --allow-empty -m x

## merge into it | local
git switch -q main && git merge -q --no-ff --no-edit $w

## branch -f | local
git branch -f main $w

## update-ref | local
git update-ref refs/heads/main $w

## update-ref --stdin | local
echo "update refs/heads/main $w" | git update-ref --stdin

## a symbolic ref in its place | local
git update-ref refs/heads/evil $w; git symbolic-ref refs/heads/main refs/heads/evil

## fetch into it | local
git branch -f evil $w; git fetch -q . +evil:main

## push to the folder itself | local
git push -q . +$w:refs/heads/main

## its file | local
echo $w > "$(git rev-parse --git-common-dir)/refs/heads/main"

## packed-refs | local
g=$(git rev-parse --git-common-dir); git pack-refs --all; sed -i "s|^[0-9a-f]* refs/heads/main$|$w refs/heads/main|" "$g/packed-refs"

## commit without hooks | local
git -c core.hooksPath=/dev/null switch -q main && git -c core.hooksPath=/dev/null commit -q --allow-empty -m x

## commit with an empty environment | local
env -i PATH="$PATH" HOME="$HOME" git switch -q main && env -i PATH="$PATH" HOME="$HOME" git -c user.name=x -c user.email=x@y commit -q --allow-empty -m x

## dulwich here | local
python3 -c 'import sys; from dulwich.repo import Repo; Repo(".").refs[b"refs/heads/main"] = sys.argv[1].encode()' $w

## libgit2 here | local
python3 -c 'import sys, pygit2; pygit2.Repository(".").references.create("refs/heads/main", sys.argv[1], force=True)' $w

## isomorphic-git here | local
node -e 'const git = require("isomorphic-git"), fs = require("fs"); git.writeRef({ fs, dir: ".", ref: "refs/heads/main", value: process.argv[1], force: true })' $w

## commit in the developer's checkout | local
git -C "$P" commit -q --allow-empty -m x

## update-ref by --git-dir | local
git --git-dir="$P/.git" update-ref refs/heads/main $base~0 && git --git-dir="$P/.git" update-ref -d refs/heads/main

## GIT_DIR | local
GIT_DIR="$P/.git" git -c core.bare=true branch -M main evil

## fetch into the developer's repository | local
git branch -f evil $w; git -C "$P" fetch -q "$PWD" +evil:refs/heads/other --update-head-ok; git -C "$P" update-ref refs/heads/main refs/heads/other

## push into the developer's repository | local
git push -q --receive-pack='git -c receive.denyCurrentBranch=ignore receive-pack' "$P" +$w:refs/heads/main

## its file in the developer's repository | local
echo $w > "$P/.git/refs/heads/main"

## packed-refs of the developer's repository | local
printf '%s refs/heads/main\n' $w > "$P/.git/packed-refs"; rm -f "$P/.git/refs/heads/main"

## delete it there | local
git --git-dir="$P/.git" update-ref -d refs/heads/main

## a worktree of the developer's repository | local
git -C "$P" worktree add -q --detach "$T/tree" && git -C "$T/tree" update-ref refs/heads/main $(git -C "$T/tree" commit-tree HEAD^{tree} -p HEAD -m x)

## dulwich there | local
python3 -c 'import sys; from dulwich.repo import Repo; Repo(sys.argv[1]).refs[b"refs/heads/main"] = sys.argv[2].encode()' "$P" $w

## libgit2 there | local
python3 -c 'import sys, pygit2; pygit2.Repository(sys.argv[1]).references.delete("refs/heads/main")' "$P"

## isomorphic-git there | local
node -e 'const git = require("isomorphic-git"), fs = require("fs"); git.writeRef({ fs, dir: process.argv[1], ref: "refs/heads/main", value: process.argv[2], force: true })' "$P" $w

## reset --hard | local
git -C "$P" reset -q --hard

## clean | local
git -C "$P" clean -qfdx

## stash | local
git -C "$P" stash -q -u

## checkout -f | local
git -C "$P" checkout -q -f main

## rm | local
rm -rf "$P"/*

## mv | local
mv "$P/notes.txt" "$T/"

## write into a file | local
echo evil >> "$P/README.md"

## write through a link | local
ln -s "$P/README.md" link && echo evil >> link

## write through a hard link | local
ln "$P/README.md" hard && echo evil >> hard

## an editor's rename | local
sed -i s/project/evil/ "$P/README.md"

## remove the objects | local
rm -rf "$P"/.git/objects/??

## overwrite an object that is borrowed | local
chmod -R u+w "$P/.git/objects"; for object in "$P"/.git/objects/??/*; do echo evil > "$object"; done

## a hook in the developer's repository | local
printf '#!/bin/sh\n' > "$P/.git/hooks/post-commit" && chmod +x "$P/.git/hooks/post-commit"

## fsmonitor in the developer's configuration | local
git -C "$P" config core.fsmonitor /tmp/evil

## hooks for all repositories | local
git config --global core.hooksPath /tmp/evil

## push | all
git push -q origin HEAD:main

## push by its full name | all
git push -q origin HEAD:refs/heads/main

## push --force | all
git push -q --force origin $w:main

## push --force-with-lease | all
git push -q --force-with-lease origin $w:main

## push --no-verify | all
git push -q --no-verify origin HEAD:main

## push a mirror | all
git branch -f main $w; git push -q --mirror origin

## push everything | all
git branch -f main HEAD; git push -q --all origin

## push it with another | all
git push -q origin HEAD:main HEAD:refs/heads/other

## push atomically | all
git push -q --atomic origin HEAD:main HEAD:refs/heads/other

## delete it | all
git push -q origin :main

## push a tag | all
git push -q origin HEAD:refs/tags/v9

## push a branch of another name | all
git push -q origin HEAD:refs/heads/other

## push something that is no branch | all
git push -q origin HEAD:refs/evil/x

## push without hooks and environment | all
env -i PATH="$PATH" HOME="$HOME" git -c core.hooksPath=/dev/null push -q origin HEAD:main

## push by the URL | all
git push -q "$URL" HEAD:main

## push by a push URL | all
git -c remote.origin.pushurl="$URL" push -q origin HEAD:main

## push by a rewritten URL | all
git -c url."$URL".insteadOf=evil: push -q evil: HEAD:main

## push by a changed remote | all
git remote set-url --push origin "$URL"; git push -q origin HEAD:main; git remote set-url --push origin "$GATE"

## push three megabytes in pieces | all
head -c 3000000 /dev/urandom > large; git add large; git commit -q -m large; git -c http.postBuffer=65536 push -q origin HEAD:main

## push by plumbing | all
case "$URL" in
  http*) printf 'capabilities\nlist for-push\npush HEAD:refs/heads/main\n\n' | git remote-http origin "$URL" ;;
  *) git send-pack "$URL" HEAD:refs/heads/main ;;
esac

## push from the developer's checkout | all
git -C "$P" push -q origin +$base~0:refs/heads/other

## push with the developer's repository as ours | all
GIT_DIR="$P/.git" git push -q origin +refs/heads/main:refs/heads/other

## push from a clone elsewhere | all
git clone -q "$URL" "$T/elsewhere" && git -C "$T/elsewhere" commit -q --allow-empty -m x && git -C "$T/elsewhere" push -q origin HEAD:main

## push with the stored password | http
secret=$(sed -n '1s/%3a/:/p; 1p' "$HOME/.git-credentials" | sed -n 1p); git push -q "$secret/shop.git" HEAD:main

## push with the helper's password | http
password=$(printf 'url=%s\n\n' "$URL" | git -c credential.helper=store credential fill | sed -n s/^password=//p)
git push -q "http://ada:$password@${URL#http://}" HEAD:main

## push with the stored key | ssh
cp "$HOME/.ssh/id_test" "$T/key" && chmod 600 "$T/key" && GIT_SSH_COMMAND="ssh -F /dev/null -i $T/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null" git push -q "$URL" HEAD:main

## a command on the server | ssh
ssh -F "$HOME/.ssh/config" -p $PORT "$SSH_USER@127.0.0.1" git --git-dir=$BARE update-ref refs/heads/other main

## its file on the remote | file
git push -q "$URL" HEAD:refs/sentrely-test/x; echo $base > "$BARE/refs/heads/other"

## dulwich by the URL | http file daemon
python3 "$CLIENTS/push.py" dulwich "$URL"

## libgit2 by the URL | http file daemon
python3 "$CLIENTS/push.py" pygit2 "$URL"

## isomorphic-git by the URL | http
node "$CLIENTS/push.js" "$URL"

## dulwich at the gate | http file daemon
python3 "$CLIENTS/push.py" dulwich "$GATE"

## libgit2 at the gate | http
python3 "$CLIENTS/push.py" pygit2 "$GATE"

## isomorphic-git at the gate | http
node "$CLIENTS/push.js" "$GATE"

## the REST API with the token of a variable | http
python3 "$CLIENTS/api.py" move "$GH_TOKEN"

## the REST API with the login of gh | http
python3 "$CLIENTS/api.py" move "$(sed -n 's/.*oauth_token: //p' "$HOME/.config/gh/hosts.yml")"

## a file by the REST API | http
python3 "$CLIENTS/api.py" contents "${GH_TOKEN:-$(sed -n 's/.*oauth_token: //p' "$HOME/.config/gh/hosts.yml")}"

## a merge by the REST API | http
python3 "$CLIENTS/api.py" merge "${GH_TOKEN:-$(sed -n 's/.*oauth_token: //p' "$HOME/.config/gh/hosts.yml")}"

## the REST API with the token of another process | http
cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | sed -n 's/^GH_TOKEN=//p' | sort -u | while read -r token; do python3 "$CLIENTS/api.py" move "$token"; done
