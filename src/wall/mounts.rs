//! What is mounted where, and by which other names a place can be reached: a bind mount of `/home` elsewhere is a way round everything that
//! is done to `/home`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The mounts of this process, in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Vec<Mount>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: String,
    /// Which directory of the file system is mounted.
    root: PathBuf,
    point: PathBuf,
    /// The type of the file system.
    kind: String,
}

impl Mounts {
    /// Reads them.
    pub(super) fn read() -> Self {
        Self::parse(&fs::read("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(text: &[u8]) -> Self {
        let mount = |line: &[u8]| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let device = String::from_utf8_lossy(fields.get(2)?).into_owned();
            // After as many optional fields as there are.
            let kind = fields.iter().skip_while(|field| **field != b"-").nth(1).copied().unwrap_or_default();
            let kind = String::from_utf8_lossy(kind).into_owned();
            Some(Mount { device, root: unescaped(fields.get(3)?), point: unescaped(fields.get(4)?), kind })
        };
        Self(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The other names of `path`, or of parts of it.
    pub(super) fn aliases(&self, path: &Path) -> Vec<PathBuf> {
        let is_there = |candidate: &Path, real: &Path| same_file(candidate, real);
        let found = self.other_names(path).into_iter().filter(|(name, real)| is_there(name, real));
        found.map(|(name, _)| name).collect()
    }

    /// What is mounted below `path`, outer places first.
    pub(super) fn below(&self, path: &Path) -> Vec<PathBuf> {
        let mut points: Vec<PathBuf> =
            self.0.iter().map(|mount| mount.point.clone()).filter(|point| point.starts_with(path) && point != path).collect();
        points.sort();
        points.dedup();
        points
    }

    /// Where file systems of this type are mounted.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = PathBuf> {
        self.0.iter().filter(move |mount| mount.kind == kind).map(|mount| mount.point.clone())
    }

    /// Other names by the table alone, each with the path below `path` that it should be.
    fn other_names(&self, path: &Path) -> Vec<(PathBuf, PathBuf)> {
        let holders = self.0.iter().enumerate().filter(|(_, mount)| path.starts_with(&mount.point));
        // The deepest, and of several at one point the last.
        let Some((own, holder)) = holders.max_by_key(|(at, mount)| (mount.point.components().count(), *at)) else { return Vec::new() };
        let Ok(rest) = path.strip_prefix(&holder.point) else { return Vec::new() };
        let inside = joined(&holder.root, rest);
        let mut names = Vec::new();
        for (at, mount) in self.0.iter().enumerate() {
            if at == own || mount.device != holder.device {
                continue;
            }
            let (name, real) = if let Ok(rest) = inside.strip_prefix(&mount.root) {
                (joined(&mount.point, rest), path.to_owned())
            } else if let Ok(part) = mount.root.strip_prefix(&inside) {
                (mount.point.clone(), joined(path, part))
            } else {
                continue;
            };
            if name != path && !names.iter().any(|(known, _)| *known == name) {
                names.push((name, real));
            }
        }
        names
    }
}

/// Without a slash at the end for an empty rest.
fn joined(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

/// Whether both names, if links then these themselves, are one file's.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Spaces and the like stand as `\040`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = || u8::from_str_radix(std::str::from_utf8(after.get(..3)?).ok()?, 8).ok();
        if let Some(byte) = (*first == b'\\').then(octal).flatten() {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(table: &str, path: &str) -> Vec<String> {
        let names = Mounts::parse(table.as_bytes()).other_names(Path::new(path));
        names.into_iter().map(|(name, real)| format!("{} = {}", name.display(), real.display())).collect()
    }

    #[test]
    fn a_place_is_found_under_every_name_that_another_mount_gives_it() {
        let table = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     28 27 0:22 / /sys rw - sysfs sysfs rw\n\
                     30 27 254:0 /home /mnt/with\\040space rw - ext4 /dev/vda rw\n\
                     31 27 254:0 /home/ana/proj /work rw - ext4 /dev/vda rw\n\
                     32 27 254:1 / /home/bob rw - ext4 /dev/vdb rw\n";
        assert_eq!(names(table, "/home/ana"), ["/mnt/with space/ana = /home/ana", "/work = /home/ana/proj"]);
        assert_eq!(
            names(table, "/home/ana/proj/src"),
            ["/mnt/with space/ana/proj/src = /home/ana/proj/src", "/work/src = /home/ana/proj/src"]
        );
        assert_eq!(names(table, "/home/bob/x"), Vec::<String>::new());
        assert_eq!(names(table, "/work/src"), ["/home/ana/proj/src = /work/src", "/mnt/with space/ana/proj/src = /work/src"]);
    }

    #[test]
    fn mounts_of_a_type_are_found_behind_any_number_of_optional_fields() {
        let table = "1 0 0:5 / /dev rw - devtmpfs udev rw\n2 1 0:20 / /dev/mqueue rw shared:3 master:1 - mqueue mqueue rw\n3 1 0:20 / /q rw - mqueue q rw\n";
        let found: Vec<PathBuf> = Mounts::parse(table.as_bytes()).of_kind("mqueue").collect();
        assert_eq!(found, ["/dev/mqueue", "/q"].map(PathBuf::from));
    }

    #[test]
    fn of_two_mounts_at_one_place_the_later_holds_it() {
        let table = "1 0 254:0 / / rw - ext4 a rw\n2 1 254:1 / /data rw - ext4 b rw\n3 1 254:2 / /data rw - ext4 c rw\n4 1 254:2 / /c rw - ext4 c rw\n";
        assert_eq!(names(table, "/data/x"), ["/c/x = /data/x"]);
    }
}
