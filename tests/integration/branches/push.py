"""Pushes HEAD to main with a client that is not git: push.py dulwich|pygit2 URL. With the stored password, if it can be read."""
import os, re, sys

client, url = sys.argv[1:]
try:
    stored = open(os.path.expanduser("~/.git-credentials")).readline()
except OSError:
    stored = ""
found = re.match(r"http://([^:]+):([^@]+)@", stored)
user, password = found.groups() if found else ("", "")

if client == "dulwich":
    from dulwich import porcelain

    login = {"username": user, "password": password} if url.startswith("http") and user else {}
    porcelain.push(".", url, b"HEAD:refs/heads/main", **login)
else:
    import pygit2

    class Login(pygit2.RemoteCallbacks):
        def credentials(self, url, username, allowed):
            return pygit2.UserPass(user, password)

        def push_update_reference(self, name, message):
            if message:
                sys.exit(message)

    repository = pygit2.Repository(".")
    repository.branches.local.create("evil", repository[repository.head.target], force=True)
    repository.remotes.create_anonymous(url).push(["+refs/heads/evil:refs/heads/main"], callbacks=Login())
