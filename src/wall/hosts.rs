//! Which hosts lie within reach when the network is cut down to services: names, addresses and networks, each with a port or with those of the
//! web.
//!
//! A name says who is meant, not where it leads: what it resolves to must be a public address, or one that the list holds as an address.
//! So a name whose owner lets it lead to the machine itself, or into the network around it, opens nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Package registries and forges that most people use; what `defaults` stands for.
const DEFAULTS: &[&str] = &[
    // npm, yarn, node
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "npm.pkg.github.com",
    "nodejs.org",
    // Python
    "pypi.org",
    "files.pythonhosted.org",
    "conda.anaconda.org",
    // Rust
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "static.rust-lang.org",
    // Go
    "proxy.golang.org",
    "sum.golang.org",
    // Debian, Ubuntu, Alpine
    "deb.debian.org",
    "security.debian.org",
    "*.archive.ubuntu.com",
    "security.ubuntu.com",
    "ports.ubuntu.com",
    "dl-cdn.alpinelinux.org",
    // Ruby, PHP, JVM, .NET, Elixir, Dart
    "rubygems.org",
    "index.rubygems.org",
    "repo.packagist.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "plugins.gradle.org",
    "services.gradle.org",
    "api.nuget.org",
    "repo.hex.pm",
    "pub.dev",
    // forges
    "github.com",
    "api.github.com",
    "codeload.github.com",
    "*.githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "api.bitbucket.org",
    "codeberg.org",
];
/// The word for them.
const DEFAULTS_WORD: &str = "defaults";
/// Ports of an entry that names none.
const WEB: [u16; 2] = [80, 443];

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostList(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    who: Who,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Name(String),
    /// Everything below this name, which begins with a dot.
    Below(String),
    Network(IpAddr, u8),
}

/// An entry that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the host `{0}`: expected one like pypi.org, *.corp.example, git.corp.example:22, 10.1.2.3:4873 or 10.1.2.0/24")]
pub struct HostError(String);

/// Why a host is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nothing on the list names it.
    NotListed,
    /// Its name is listed, and leads to an address that is not.
    NotPublic,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotListed => "it is not in wall.hosts",
            Self::NotPublic => "it leads to an address of this machine or a private network that is not in wall.hosts",
        })
    }
}

impl HostList {
    /// Reads the entries.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self, HostError> {
        let mut list = Vec::new();
        for entry in entries {
            match entry.as_ref().trim() {
                DEFAULTS_WORD => list.extend(DEFAULTS.iter().filter_map(|entry| Entry::parse(entry))),
                entry => list.push(Entry::parse(entry).ok_or_else(|| HostError(entry.to_owned()))?),
            }
        }
        Ok(Self(list))
    }

    /// With one more host, if it is one.
    pub fn add(&mut self, entry: &str) {
        if let Some(entry) = Entry::parse(entry)
            && !self.0.contains(&entry)
        {
            self.0.push(entry);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is within reach.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this host may be looked up. An address must itself be listed.
    pub fn allows(&self, host: &str, port: u16) -> Result<(), Denied> {
        let listed = match address(host) {
            Some(address) => self.lists(address, port),
            None => self.0.iter().any(|entry| entry.has_port(port) && entry.is_named(host)),
        };
        if listed { Ok(()) } else { Err(Denied::NotListed) }
    }

    /// Whether a listed name may lead here.
    pub fn allows_address(&self, address: IpAddr, port: u16) -> Result<(), Denied> {
        if is_public(address) || self.lists(address, port) { Ok(()) } else { Err(Denied::NotPublic) }
    }

    fn lists(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|entry| entry.has_port(port) && entry.holds(address))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some((network, bits)) = text.split_once('/') {
            let (network, bits) = (network.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            let most = if network.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self { who: Who::Network(network, bits), port: None });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::of_address(address, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        if let Some(address) = address(host) {
            return Some(Self::of_address(address, port));
        }
        let (host, below) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
        let part =
            |part: &str| !part.is_empty() && part.len() <= 63 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let host = host.to_ascii_lowercase();
        // A name whose last part is a number would be taken for an address by whoever looks it up.
        let is_name = host.split('.').all(part) && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        let who = if below { Who::Below(format!(".{host}")) } else { Who::Name(host) };
        is_name.then_some(Self { who, port })
    }

    fn of_address(address: IpAddr, port: Option<u16>) -> Self {
        Self { who: Who::Network(address, if address.is_ipv4() { 32 } else { 128 }), port }
    }

    fn has_port(&self, port: u16) -> bool {
        self.port.map_or_else(|| WEB.contains(&port), |own| own == port)
    }

    fn is_named(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match &self.who {
            Who::Name(name) => host == *name,
            Who::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
            Who::Network(..) => false,
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        match (&self.who, address) {
            (Who::Network(IpAddr::V4(network), bits), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (Who::Network(IpAddr::V6(network), bits), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// An address, in the brackets of a URL or without.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    inner.parse().ok()
}

/// Whether an address is somebody's on the internet, and not this machine, a network around it or of special use.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let segments = address.segments();
            match segments {
                // Translated to IPv4, by a gateway (RFC 6052) or a tunnel (RFC 3056): what it is there counts.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                    let [a, b] = high.to_be_bytes();
                    let [c, d] = low.to_be_bytes();
                    is_public_v4(Ipv4Addr::new(a, b, c, d))
                }
                // Protocols (RFC 2928), documentation.
                [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
                [0x3fff, second, ..] if second < 0x1000 => false,
                // What is given out at all.
                [first, ..] => first & 0xe000 == 0x2000 && address != Ipv6Addr::UNSPECIFIED,
            }
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => b == 168 || (b == 0 && matches!(c, 0 | 2)) || (b == 88 && c == 99),
        198 => b & 0xfe == 18 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => a >= 224,
    };
    !special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> HostList {
        HostList::parse(entries).unwrap()
    }

    #[test]
    fn a_host_is_within_reach_by_its_name_and_port_and_by_nothing_that_looks_like_it() {
        let list = list(&["pypi.org", "*.corp.example", "git.corp.example:22", "10.1.2.0/24", "[fd00::7]:4873", "127.0.0.1:8081"]);
        let open = [
            ("pypi.org", 443),
            ("PyPI.org.", 80),
            ("npm.corp.example", 443),
            ("a.b.corp.example", 443),
            ("git.corp.example", 22),
            ("10.1.2.9", 443),
            ("::ffff:10.1.2.9", 443),
            ("[fd00::7]", 4873),
            ("127.0.0.1", 8081),
        ];
        for (host, port) in open {
            assert_eq!(list.allows(host, port), Ok(()), "{host}:{port}");
        }
        let closed = [
            ("pypi.org", 22),
            ("pypi.org.evil.example", 443),
            ("xpypi.org", 443),
            ("corp.example", 443),
            (".corp.example", 443),
            ("corp.example.", 443),
            ("npm.corp.example", 22),
            ("10.1.3.9", 443),
            ("127.0.0.1", 8082),
            ("127.1", 8081),
            ("2130706433", 8081),
            ("localhost", 8081),
            ("", 443),
        ];
        for (host, port) in closed {
            assert_eq!(list.allows(host, port), Err(Denied::NotListed), "{host}:{port}");
        }
    }

    #[test]
    fn a_listed_name_may_lead_to_public_addresses_and_to_those_that_are_listed_as_such() {
        let list = list(&["defaults", "10.1.2.0/24"]);
        for address in ["151.101.0.223", "2606:4700::6810:1", "64:ff9b::9765:df", "10.1.2.3", "2002:9765:df::1"] {
            assert_eq!(list.allows_address(address.parse().unwrap(), 443), Ok(()), "{address}");
        }
        let inner = [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.3.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
            "::127.0.0.1",
        ];
        for address in inner {
            assert_eq!(list.allows_address(address.parse().unwrap(), 443), Err(Denied::NotPublic), "{address}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_an_example() {
        for entry in
            ["", "https://pypi.org", "pypi.org:", "pypi.org:0", "pypi.org:99999", "a b", "*", "*.", "10.0.0.0/33", "127.1", "x.*.y", "-/8"]
        {
            assert_eq!(HostList::parse([entry]), Err(HostError(entry.trim().to_owned())), "{entry}");
        }
        assert_eq!(list(&["defaults"]).len(), DEFAULTS.len(), "each of the built-in ones is one");
    }

    proptest! {
        #[test]
        fn no_address_is_within_reach_that_no_entry_holds(bits in any::<u32>(), port in any::<u16>()) {
            let address = IpAddr::from(Ipv4Addr::from_bits(bits));
            prop_assert_eq!(list(&["defaults"]).allows(&address.to_string(), port), Err(Denied::NotListed));
        }
    }
}
