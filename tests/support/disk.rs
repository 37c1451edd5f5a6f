//! A small XFS of a test's own, in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::components::skip_on_this_kernel;

/// Mounted, until it is dropped.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes one of a gigabyte (no more of it is used than is written) that lets files share blocks, or does not, and mounts it at the folder
    /// `at`, which it makes. `None`: it cannot be mounted here; the test is skipped.
    pub(crate) fn mount(at: &Path, shares_blocks: bool) -> Option<Self> {
        let image = at.with_extension("img");
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        std::fs::create_dir(at).unwrap();
        let options = format!("reflink={}", u8::from(shares_blocks));
        let made = Command::new("mkfs.xfs").args(["-q", "-m", &options]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at).output().unwrap();
        if !mounted.status.success() {
            skip_on_this_kernel(&format!("no XFS in a file can be mounted here: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(Self { at: at.to_owned() })
    }

    /// How many bytes of it are in use.
    pub(crate) fn used(&self) -> u64 {
        nix::unistd::sync();
        let seen = nix::sys::statvfs::statvfs(&self.at).unwrap();
        (seen.blocks() - seen.blocks_free()) * seen.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for options in [&[][..], &["-l"]] {
            if Command::new("umount").args(options).arg(&self.at).status().is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}
