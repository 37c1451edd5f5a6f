//! A network cut down to services: every way out that is tried is closed, and opened again without it or by the list; and what package managers
//! do goes through the filter.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

use super::*;
use crate::support::components::PYTHON;
use crate::support::run::Output;

const CURL: Component = Component::Program("curl");

/// Servers of the outside.
struct Services {
    outside: Outside,
    tcp: u16,
    udp: u16,
    six: u16,
    registry: u16,
}

impl Services {
    fn start(world: &World) -> Self {
        let script = world.env.root().join("services.py");
        write(&script, include_str!("services.py"));
        write(&world.env.root().join("ways_out.py"), include_str!("ways_out.py"));
        fs::create_dir_all(world.env.root().join("registry")).unwrap();
        world.give_away();
        let mut outside = Outside::start(world, &["python3", script.to_str().unwrap()]);
        let mut line = String::new();
        BufReader::new(outside.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().unwrap()).collect();
        let &[tcp, udp, six, registry] = ports.as_slice() else { panic!("{line}") };
        Self { outside, tcp, udp, six, registry }
    }

    /// A session in which `registry.test` is this machine, with the network as `network` says.
    fn run(&self, world: &World, network: &str, hosts: &[String], command: &[&str]) -> Output {
        let mut flags = vec!["--wall".to_owned(), "require".to_owned(), "--config".to_owned(), format!("wall.network={network}")];
        if !hosts.is_empty() {
            flags.extend(["--config".to_owned(), format!("wall.hosts={}", hosts.join(","))]);
        }
        let names = world.env.root().join("names");
        write(&names, "127.0.0.1 localhost registry.test\n::1 localhost\n");
        let mut words: Vec<String> = Vec::new();
        if nix::unistd::getuid().is_root() {
            words.extend(["unshare", "-m", "sh", "-c", "mount --bind \"$R/names\" /etc/hosts && exec \"$@\"", "sh"].map(str::to_owned));
        }
        words.extend(world.as_who());
        words.extend([world.sentrely.display().to_string(), "run".to_owned()]);
        words.extend(flags);
        words.push("--".to_owned());
        words.extend(command.iter().map(|word| (*word).to_owned()));
        let run = world.env.command(&words[0], &words[1..]).var("PATH", PATH).var("R", world.env.root()).timeout(Duration::from_mins(5));
        let ports = [("TCP", self.tcp), ("UDP", self.udp), ("SIX", self.six), ("REGISTRY", self.registry)];
        ports.into_iter().fold(run, |run, (name, port)| run.var(name, port.to_string())).var("OUT", self.outside.pid().to_string()).run()
    }

    fn ways_out(&self, world: &World, network: &str, hosts: &[String]) -> BTreeSet<String> {
        let script = world.env.root().join("ways_out.py");
        let output = self.run(world, network, hosts, &["python3", script.to_str().unwrap()]).success();
        output.stdout.lines().map(str::to_owned).collect()
    }
}

fn whos() -> impl Iterator<Item = Who> {
    [Who::Root, Who::User].into_iter().filter(|who| full_wall(*who))
}

#[test]
fn nothing_of_the_network_is_within_reach_but_what_the_list_names() {
    crate::needs!(PYTHON, CURL, Component::Program("nsenter"));
    for who in whos() {
        let world = World::new(who);
        let services = Services::start(&world);
        // A name is listed with the port, and leads to an address that is not.
        let names = [format!("localhost:{}", services.tcp), "registry.test".to_owned()];
        assert_eq!(services.ways_out(&world, "services", &names), BTreeSet::new(), "{who:?}");
        let id = world.env.sessions().into_iter().find(|id| id != "other").unwrap();
        let refused = world.env.events(&id, "host_refused");
        let refused: BTreeSet<&str> = refused.iter().map(|event| event["host"].as_str().unwrap()).collect();
        let (tcp, six) = (services.tcp, services.six);
        let expected = ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "registry.test"].map(|host| format!("{host}:{tcp}"));
        let expected: BTreeSet<String> = expected.into_iter().chain([format!("[::1]:{six}")]).collect();
        assert_eq!(refused, expected.iter().map(String::as_str).collect(), "{who:?}: what was refused is written down");

        // The same ways, where the addresses are listed, and where the network is open.
        let addresses = [format!("127.0.0.1:{tcp}"), format!("[::1]:{six}"), names[0].clone()];
        let listed = services.ways_out(&world, "services", &addresses);
        // A name before the address is a user's name, no host's.
        let of_filter: Vec<String> = ways().filter(|way| way.starts_with("filter") && !way.contains("not listed")).collect();
        assert_eq!(listed, of_filter.into_iter().collect(), "{who:?}");
        let mut open = services.ways_out(&world, "open", &[]);
        // The signal scope of the wall closes these whatever the network; without root nobody enters another one's network.
        for way in ["an abstract socket", "the network of another process"] {
            assert!(!open.contains(way), "{way}");
        }
        open.extend(["an abstract socket", "the network of another process"].map(str::to_owned));
        let direct: BTreeSet<String> = ways().filter(|way| !way.starts_with("filter")).collect();
        assert_eq!(open, direct, "{who:?}");
    }
}

/// All that `ways_out.py` tries.
fn ways() -> impl Iterator<Item = String> {
    let rows = include_str!("ways_out.py").lines().filter_map(|line| line.strip_prefix("    \"")?.split_once("\": "));
    rows.map(|(name, _)| name.to_owned())
}

/// A registry of files, as package managers read it.
const MAKE_REGISTRY: &str = r#"
cd "$R/registry"
mkdir -p package simple/dep && echo '{"name":"dep","version":"1.0.0"}' > package/package.json && tar czf dep-1.0.0.tgz package
echo "{\"name\":\"dep\",\"dist-tags\":{\"latest\":\"1.0.0\"},\"versions\":{\"1.0.0\":{\"name\":\"dep\",\"version\":\"1.0.0\",\"dist\":{\"tarball\":\"http://registry.test:$REGISTRY/dep-1.0.0.tgz\"}}}}" > dep
python3 - <<'PY'
import zipfile
with zipfile.ZipFile("simple/dep/dep-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("dep.py", "")
    wheel.writestr("dep-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: dep\nVersion: 1.0\n")
    wheel.writestr("dep-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("dep-1.0.dist-info/RECORD", "")
open("simple/dep/index.html", "w").write('<a href="dep-1.0-py3-none-any.whl">dep-1.0-py3-none-any.whl</a>')
PY
git clone -q --bare "$P" repository.git && git -C repository.git update-server-info
"#;

/// `name | command`: what goes through the filter every day.
const THROUGH: &str = r#"curl, plain | curl -sf http://registry.test:$REGISTRY/dep
curl, by a tunnel | curl -sfp http://registry.test:$REGISTRY/dep
npm | mkdir n && cd n && echo '{}' > package.json && npm install --no-audit --no-fund --registry http://registry.test:$REGISTRY dep && test -f node_modules/dep/package.json
pip | python3 -m venv ~/v && ~/v/bin/pip install -q --disable-pip-version-check --index-url http://registry.test:$REGISTRY/simple --trusted-host registry.test dep && ~/v/bin/python -c 'import dep'
git | git clone -q http://registry.test:$REGISTRY/repository.git r && git -C r log --oneline -1
node | node -e 'require("net").connect(process.env.HTTP_PROXY.split(":")[2], "127.0.0.1").on("connect", () => process.exit())'
a local server | python3 -c "import socket; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); c=socket.create_connection(s.getsockname()); s.accept()"
bubblewrap without a network | bwrap --ro-bind / / --dev /dev --unshare-net true
"#;

#[test]
fn package_managers_and_git_reach_a_listed_registry_through_the_filter() {
    crate::needs!(PYTHON, CURL, Component::Program("npm"), Component::Program("bwrap"), Component::Root);
    for who in whos() {
        let world = World::new(who);
        let services = Services::start(&world);
        let mut words = world.as_who();
        words.extend(["bash", "-ec", MAKE_REGISTRY].map(str::to_owned));
        let made = world.env.command(&words[0], &words[1..]).var("PATH", PATH).var("R", world.env.root()).var("P", world.env.project());
        let _ = made.var("REGISTRY", services.registry.to_string()).run().success();
        let rows = THROUGH.lines().map(|row| row.split_once(" | ").unwrap());
        let script = rows
            .map(|(name, row)| format!("(set -e; {row}) >out 2>&1 </dev/null && echo ok || {{ echo '{name} failed'; cat out; }}\n"))
            .collect::<Vec<_>>()
            .concat();
        let hosts = [format!("registry.test:{}", services.registry), format!("127.0.0.1:{}", services.registry)];
        let output = services.run(&world, "services", &hosts, &["bash", "-c", &script]).success();
        assert_eq!(output.stdout, "ok\n".repeat(THROUGH.lines().count()), "{who:?}: {}", output.stderr);
        assert!(output.stderr.contains("network cut down to services and 2 hosts"), "{}", output.stderr);
    }
}

#[test]
fn where_the_full_wall_does_not_stand_the_network_is_not_silently_left_open() {
    let world = World::new(if nix::unistd::getuid().is_root() { Who::Root } else { Who::User });
    let services = ["--config", "wall.network=services"];
    let refused = |run: Run<'_>| {
        let output = run.run().exits(125);
        assert!(output.stderr.contains("cut the network down to services") && output.stderr.contains("hint:"), "{}", output.stderr);
        assert_eq!(world.env.sessions(), ["other"]);
    };
    refused(world.run(&services, &["true"]).var("SENTRELY_TEST_HIDE", "namespaces"));
    refused(world.run(&[&services[..], &["--wall", "off"]].concat(), &["true"]));
    let output = world.run(&[&services[..], &["--config", "wall.hosts=https://x"]].concat(), &["true"]).run().exits(125);
    assert!(output.stderr.contains("read the host `https://x`") && output.stderr.contains("hint:"), "{}", output.stderr);
}
