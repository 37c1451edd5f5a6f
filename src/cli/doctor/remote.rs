//! Whether the remote itself protects its default branch from whoever has this machine's credentials.

use super::{Check, Surroundings};
use crate::cli::load_config;
use crate::git::Checkout;
use crate::session::protection;

pub(super) fn protection(at: &Surroundings) -> Check {
    const NAME: &str = "branch protection";
    let Ok(checkout) = Checkout::discover(&at.cwd) else { return Check::ok(NAME, "no repository here") };
    let Ok(loaded) = load_config(Vec::new()) else { return Check::ok(NAME, "not asked: the configuration cannot be read") };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Check::ok(NAME, "not asked: no runtime");
    };
    let survey = runtime.block_on(protection::survey(&checkout, &loaded.config));
    match survey.hint {
        Some(hint) => Check::warn(NAME, survey.what, hint),
        None => Check::ok(NAME, survey.what),
    }
}
