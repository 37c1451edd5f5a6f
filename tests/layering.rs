//! The rules of the tree, checked on its text: the layer picture of `src/lib.rs`, pure lower layers, where `unsafe` may stand, how long a file
//! may be, what lies at the top of the repository, one TLS stack. Each rule has a control: a bad sample that it finds.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files with `unsafe` in them: what processes need of the system, what macOS tells of them, and what the wall does.
const UNSAFE_FILES: [&str; 4] = ["process/spawn.rs", "process/spawn/linux.rs", "system/macos.rs", "wall/syscall.rs"];
/// Lines; a longer file has a second thing in it.
const LONGEST: usize = 600;
/// What lies at the top, besides hidden files.
const TOP: [&str; 8] = ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "examples", "sentrely.toml.example", "src", "tests"];
/// A second TLS stack.
const FOREIGN_TLS: [&str; 6] = ["aws-lc-fips-sys", "aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"];

#[test]
fn modules_import_only_from_the_layers_below() {
    let picture = picture(&std::fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let found: Vec<String> = sources().iter().flat_map(|(file, text)| upward_imports(file, text, &picture)).collect();
    assert_eq!(found, Vec::<String>::new());

    let bad = |file: &str, text: &str| !upward_imports(file, text, &picture).is_empty();
    for (file, text) in [
        ("proxy/mod.rs", "use crate::git::gate;"),
        ("proxy/mod.rs", "use crate::{model::Usd, aws};"),
        ("proxy/deep/mod.rs", "use super::super::aws::lease;"),
        ("proxy/mod.rs", "use super::session;"),
        ("proxy/auth.rs", "mod tests { use super::super::super::aws; }"),
        ("model/id.rs", "fn f() { crate::store::open() }"),
        ("store/mod.rs", "use crate::config::Config;"),
        ("session/mod.rs", "use crate::cli::ui;"),
        ("meter/mod.rs", "use crate::{\n  model::{Usd, Limit},\n  config,\n};"),
        ("cli/mod.rs", "use crate::unheard_of;"),
        ("wall/mod.rs", "use crate::*;"),
    ] {
        assert!(bad(file, text), "{file}: {text}");
    }
    for (file, text) in [
        ("proxy/mod.rs", "use crate::{model::{Usd, git}, meter};"),
        ("proxy/auth.rs", "use super::forward; use crate::proxy::tee; mod tests { use super::*; use super::super::forward; }"),
        ("proxy/mod.rs", "//! [`crate::git`]\n/* use crate::git; */ const A: &str = \"crate::git\"; const B: &str = r#\"crate::\"git\"#;"),
        ("proxy/mod.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } pub(crate) fn g() {} // crate::git"),
        ("main.rs", "use sentrely::cli;"),
    ] {
        assert_eq!(upward_imports(file, text, &picture), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn the_picture_names_every_module_once_and_nothing_else() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let drawn: Vec<String> = picture(&lib).into_keys().collect();
    let there: BTreeSet<String> = sources().keys().map(|file| module_path(file)[0].clone()).filter(|name| name != "lib").collect();
    assert_eq!(drawn, there.into_iter().collect::<Vec<_>>());
    let declared: BTreeSet<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(drawn.iter().map(String::as_str).filter(|name| *name != "main").collect::<BTreeSet<_>>(), declared);
}

#[test]
fn the_lower_layers_touch_neither_the_world_nor_the_clock() {
    let picture = picture(&std::fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let pure = sources().into_iter().filter(|(file, _)| picture.get(&module_path(file)[0]).is_some_and(|layer| *layer <= 1));
    let found: Vec<String> = pure.flat_map(|(file, text)| impurities(&file, &text)).collect();
    assert_eq!(found, Vec::<String>::new());

    for bad in [
        "use std::fs;",
        "use std::{fmt, net::{IpAddr, TcpStream}};",
        "let home = std::env::var(\"HOME\");",
        "use std::{\n    collections::BTreeMap,\n    process,\n};",
        "use tokio::sync::mpsc;",
        "use fs_err as fs;",
        "let now = Timestamp::now();",
        "let now = std::time::Instant::now();",
        "let now = SystemTime::now();",
    ] {
        assert_eq!(impurities("model/x.rs", bad).len(), 1, "{bad}");
    }
    let fine = "use std::{fmt, io::fs}; use std::time::Duration; // std::fs\nfn f(now: Timestamp) -> &'static str { env!(\"X\") }";
    assert_eq!(impurities("model/x.rs", fine), Vec::<String>::new());
}

#[test]
fn unsafe_stands_in_four_files() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|(file, text)| !UNSAFE_FILES.contains(&file.as_str()) && has_unsafe(text))
        .map(|(file, _)| file.clone())
        .collect();
    assert_eq!(found, Vec::<String>::new());

    assert!(has_unsafe("fn f() { unsafe { g() } }"));
    assert!(has_unsafe("unsafe impl Send for X {}"));
    assert!(!has_unsafe("// unsafe\n#![deny(unsafe_code)] const A: &str = \"unsafe\";"));
}

#[test]
fn no_file_is_too_long() {
    let found: Vec<String> = sources().iter().filter(|(_, text)| too_long(text)).map(|(file, _)| file.clone()).collect();
    assert_eq!(found, Vec::<String>::new());

    assert!(too_long(&"x\n".repeat(LONGEST + 1)));
    assert!(!too_long(&"x\n".repeat(LONGEST)));
}

#[test]
fn the_top_of_the_repository_holds_what_it_should() {
    let files = tracked_files();
    let entries: BTreeSet<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    assert_eq!(misplaced(&entries), Vec::<&str>::new());

    let mut bad: BTreeSet<&str> = TOP.into_iter().chain([".clippy.toml"]).collect();
    assert_eq!(misplaced(&bad), Vec::<&str>::new());
    bad.insert("notes.md");
    bad.remove("LICENSE");
    assert_eq!(misplaced(&bad), ["LICENSE", "notes.md"]);
}

#[test]
fn there_is_one_tls_stack_and_one_hyper() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--locked", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    assert_eq!(tls_faults(&String::from_utf8(tree.stdout).unwrap()), Vec::<String>::new());

    let good = "sentrely v0.1.0 (/x)\nhyper v1.7.0\nrustls v0.23.1\nrustls v0.23.1 (*)\nring v0.17.0\n";
    assert_eq!(tls_faults(good), Vec::<String>::new());
    assert_eq!(tls_faults(&format!("{good}openssl-sys v0.9.0\n")), ["openssl-sys is in the tree"]);
    assert_eq!(tls_faults(&format!("{good}hyper v0.14.0\n")), ["hyper: v0.14.0 v1.7.0"]);
    assert_eq!(tls_faults("hyper v1.7.0\n"), ["rustls: "]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under src, by its path from there.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut folders = vec![src.clone()];
    let mut files = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

/// What git tracks; a copy without git counts as it lies there.
fn tracked_files() -> Vec<String> {
    if !root().join(".git").exists() {
        let names = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        return names.filter(|name| name != "target").collect();
    }
    let list = Command::new("git").args(["-c", "safe.directory=*", "ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    String::from_utf8(list.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
}

/// Module to layer, from the lines `//! 3  process  proxy ..    parts; ..`.
fn picture(lib: &str) -> BTreeMap<String, u8> {
    let mut layers = BTreeMap::new();
    for line in lib.lines() {
        let Some((layer, rest)) = line.strip_prefix("//! ").and_then(|line| line.split_once("  ")) else { continue };
        let Ok(layer) = layer.parse::<u8>() else { continue };
        let (names, _) = rest.split_once("   ").expect("a gap of at least three blanks before a layer's description");
        for name in names.split_whitespace().filter(|name| *name != "->") {
            assert_eq!(layers.insert(name.to_owned(), layer), None, "{name} is drawn twice");
        }
    }
    assert!(layers.len() > 6, "the layer picture of src/lib.rs cannot be read");
    layers
}

fn upward_imports(file: &str, text: &str, picture: &BTreeMap<String, u8>) -> Vec<String> {
    let own = &module_path(file)[0];
    if own == "lib" {
        return Vec::new();
    }
    let allowed = |name: &String| {
        let binary = own == "main" && name == "cli";
        name == own || binary || matches!((picture.get(name), picture.get(own)), (Some(theirs), Some(ours)) if theirs < ours)
    };
    crate_imports(file, text).into_iter().filter(|name| !allowed(name)).map(|name| format!("{file} imports {name}")).collect()
}

/// The top-level modules that a file's paths lead to.
fn crate_imports(file: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut module = module_path(file);
    // For each open brace: whether it opened a module.
    let mut braces: Vec<bool> = Vec::new();
    let mut imports = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => {
                let opens = index >= 2 && tokens[index - 2] == "mod";
                if opens {
                    module.push(tokens[index - 1].clone());
                }
                braces.push(opens);
            }
            "}" => {
                let ends_module = braces.pop() == Some(true);
                if ends_module {
                    module.pop();
                }
            }
            "crate" | "sentrely" if tokens.get(index + 1).is_some_and(|next| next == "::") => imports.extend(heads(&tokens, index + 2)),
            // The first of a chain; the rest are counted with it.
            "super" if index < 2 || tokens[index - 2] != "super" => {
                let supers = tokens[index..].iter().step_by(2).take_while(|token| *token == "super").count();
                if supers >= module.len() {
                    imports.extend(heads(&tokens, index + 2 * supers));
                }
            }
            _ => {}
        }
    }
    imports
}

/// `proxy/auth.rs` is `[proxy, auth]`, `proxy/mod.rs` is `[proxy]`.
fn module_path(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap();
    path.strip_suffix("/mod").unwrap_or(path).split('/').map(str::to_owned).collect()
}

/// The first names of the path or of the group `{a, b::{c}, d}` that begins at `start`.
fn heads(tokens: &[String], start: usize) -> Vec<String> {
    if tokens.get(start).is_none_or(|token| token != "{") {
        return tokens.get(start).cloned().into_iter().collect();
    }
    let mut depth = 0;
    let mut names = Vec::new();
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," | "::" => {}
            name if depth == 1 && matches!(tokens[index - 1].as_str(), "{" | ",") => names.push(name.to_owned()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn impurities(file: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let path = tokens.get(index + 1).is_some_and(|next| next == "::");
        match token.as_str() {
            "std" if path => {
                let names = heads(&tokens, index + 2);
                found.extend(
                    names
                        .into_iter()
                        .filter(|name| ["fs", "net", "env", "process"].contains(&name.as_str()))
                        .map(|name| format!("{file}: std::{name}")),
                );
            }
            "tokio" | "fs_err" | "reqwest" | "hyper" => found.push(format!("{file}: {token}")),
            "now" if index >= 1 && tokens[index - 1] == "::" => found.push(format!("{file}: a clock")),
            _ => {}
        }
    }
    found
}

fn has_unsafe(text: &str) -> bool {
    tokens(text).iter().any(|token| token == "unsafe")
}

fn too_long(text: &str) -> bool {
    text.lines().count() > LONGEST
}

/// What is there and should not be, and the other way round.
fn misplaced<'a>(entries: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let expected: BTreeSet<&str> = TOP.into_iter().collect();
    entries.symmetric_difference(&expected).copied().filter(|name| !name.starts_with('.')).collect()
}

fn tls_faults(tree: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let foreign = FOREIGN_TLS.iter().filter(|name| versions.contains_key(*name)).map(|name| format!("{name} is in the tree"));
    let doubled = ["rustls", "hyper"].into_iter().filter_map(|name| {
        let all: Vec<&str> = versions.get(name).into_iter().flatten().copied().collect();
        (all.len() != 1).then(|| format!("{name}: {}", all.join(" ")))
    });
    foreign.chain(doubled).collect()
}

/// The names and signs of a Rust text, without comments, literals and lifetimes; `::` is one sign.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < chars.len() {
        match (at(index), at(index + 1)) {
            ('/', '/') => index = line_end(&chars, index),
            ('/', '*') => index = block_end(&chars, index),
            // `'x'` and `'\n'` are characters; `'a` is a lifetime, whose name counts as nothing.
            ('"', _) | ('\'', '\\') => index = quote_end(&chars, index),
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            ('\'', _) => index += 1 + chars[index + 1..].iter().take_while(|c| word(**c)).count(),
            (c, _) if word(c) => {
                let name: String = chars[index..].iter().take_while(|c| word(**c)).collect();
                index += name.chars().count();
                let hashes = chars[index..].iter().take_while(|c| **c == '#').count();
                if matches!(name.as_str(), "r" | "br" | "cr") && at(index + hashes) == '"' {
                    index = raw_end(&chars, index + hashes, hashes);
                } else {
                    tokens.push(name);
                }
            }
            (':', ':') => {
                tokens.push("::".to_owned());
                index += 2;
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                index += 1;
            }
        }
    }
    tokens
}

fn line_end(chars: &[char], start: usize) -> usize {
    start + chars[start..].iter().take_while(|c| **c != '\n').count()
}

fn block_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut index = start;
    while index < chars.len() {
        match chars[index..] {
            ['/', '*', ..] => (depth, index) = (depth + 1, index + 2),
            ['*', '/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

/// After the quote that ends what begins at `start`, which is a quote of the same kind.
fn quote_end(chars: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while index < chars.len() && chars[index] != chars[start] {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// After the quote with as many hashes that ends a raw string, whose quote is at `start`.
fn raw_end(chars: &[char], start: usize, hashes: usize) -> usize {
    let ends = |index: usize| chars[index] == '"' && chars[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (start + 1..chars.len()).find(|index| ends(*index)).map_or(chars.len(), |index| index + 1 + hashes)
}
