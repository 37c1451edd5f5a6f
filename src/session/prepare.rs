//! Everything that is decided before anything is made: who, what, where, who pays, how much. Whatever is unclear ends here, with
//! nothing created.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::claude::arguments::{SessionArgs, Use};
use super::claude::login::Login;
use super::claude::places::Places;
use super::claude::program::Kind;
use super::claude::settings::{Origin as Place, Settings};
use super::claude::{arguments, upstream};
use super::developer::{self, Developer, Known};
use super::environment::text;
use super::limits::{Claims, DEFAULT_BUDGET};
use super::report::{Banner, Report, Reporter};
use super::sharing::Shares;
use super::wall::{self, Decision};
use super::{RunError, RunRequest, alerting, hinted, killed, limits, payer};
use crate::alerts::Receiving;
use crate::aws;
use crate::config::{self, Hidden};
use crate::git::{self, Checkout, GitEnv, without_credentials};
use crate::meter::ledger::Member;
use crate::meter::price::{PriceTable, Prices, Rates};
use crate::model::{
    Billing, BillingKind, BudgetView, EXIT_TIME_LIMIT, Limit, SessionId, SessionView, Usd, Workspace, show_duration, show_time_limit,
    time_used,
};
use crate::store::{SessionDir, read_journal};

/// Where requests go when nobody says otherwise.
const PUBLIC_API: &str = "https://api.anthropic.com";

/// The decisions.
pub(super) struct Prepared {
    pub(super) request: RunRequest,
    pub(super) id: SessionId,
    /// The session as it was, when it is resumed.
    pub(super) earlier: Option<SessionView>,
    pub(super) developer: Developer,
    pub(super) project: String,
    pub(super) checkout: Option<Checkout>,
    pub(super) claude: Option<Claude>,
    pub(super) login: Login,
    pub(super) billing: Billing,
    pub(super) upstream: String,
    /// Who chose the upstream, if it is not the public API.
    pub(super) upstream_origin: Option<String>,
    pub(super) limits: Vec<Limit>,
    pub(super) limits_are_default: bool,
    /// The limits that it shares with other sessions.
    pub(super) shares: Shares,
    /// Over all attempts.
    pub(super) time_limit: Option<Duration>,
    /// What earlier attempts took of it.
    pub(super) time_used: Duration,
    pub(super) prices: Prices,
    pub(super) token: SecretString,
    pub(super) aws_source: aws::Source,
    /// The wall that this machine allows.
    pub(super) wall: Decision,
    pub(super) notices: Vec<String>,
    /// Who is told outside the machine.
    pub(super) alerts: Vec<Receiving>,
}

/// What is known of a Claude Code to be run.
pub(super) struct Claude {
    pub(super) args: SessionArgs,
    pub(super) settings: Settings,
    pub(super) places: Places,
}

pub(super) async fn prepare(request: RunRequest, reporter: &Reporter) -> Result<Prepared, RunError> {
    refuse_while_all_are_killed(&request)?;
    refuse_an_unwritable_result(&request)?;
    let mut notices: Vec<String> = Hidden::here().notice().into_iter().collect();
    let earlier = request.resume.map(|id| earlier_session(&request, id)).transpose()?;
    if let Some(earlier) = &earlier {
        killed::refuse_to_resume(&request, earlier)?;
    }
    let checkout = find_checkout(&request, earlier.as_ref()).await?;
    let (claude, login, upstream, upstream_origin) = read_claude(&request, &mut notices)?;
    if let Some(claude) = &claude {
        killed::refuse_the_conversation(&request, &claude.args, &claude.places)?;
    }
    let billing = login.billing();
    payer::refuse_another(request.config.billing.expect, &billing, &login.origin_words())?;
    let (limits, limits_are_default) = limits(&request, earlier.as_ref(), &billing);
    let (time_limit, time_used) = time(&request, earlier.as_ref())?;
    let aws_source =
        aws::Source { profile: request.config.aws.profile.clone(), region: request.config.aws.region.clone(), ..aws::Source::default() };
    let developer = match &earlier {
        Some(view) => Developer { name: view.developer.clone(), source: view.developer_source },
        None => who(&request, checkout.as_ref(), &aws_source, reporter).await?,
    };
    let project = earlier.as_ref().map_or_else(|| project(&request, checkout.as_ref()), |view| view.project.clone());
    let id = request.resume.unwrap_or_else(SessionId::new);
    let member = Member { session: id, developer: developer.name.clone(), project: project.clone(), host: host() };
    let shares = Shares::look(&request, member, Timestamp::now())?;
    let prices = prices(&request.config);
    let alerts = if request.dry_run { Vec::new() } else { alerting::receivers(&request.config)? };
    let wall = wall::decide(&request, workspace_of(&request, earlier.as_ref()), checkout.as_ref())?;
    Ok(Prepared {
        id,
        earlier,
        developer,
        project,
        checkout,
        claude,
        login,
        billing,
        upstream,
        upstream_origin,
        limits,
        limits_are_default,
        shares,
        time_limit,
        time_used,
        prices,
        token: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).into(),
        aws_source,
        wall,
        notices,
        alerts,
        request,
    })
}

impl Prepared {
    /// The session's directory, whether it exists or not.
    pub(super) fn dir(&self) -> SessionDir {
        self.request.state.session(self.id)
    }

    /// A variable as the command will see it: Claude Code's settings go before the environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        match &self.claude {
            Some(claude) => claude.settings.effective(&self.request.env, name).map(|(value, _)| value),
            None => text(&self.request.env, name).map(str::to_owned),
        }
    }

    pub(super) fn workspace(&self) -> Workspace {
        workspace_of(&self.request, self.earlier.as_ref())
    }

    /// Scheme, host and port of the upstream: what may be shown and recorded.
    pub(super) fn upstream_origin_url(&self) -> String {
        without_credentials(&self.upstream)
    }

    /// Whether requests go to the public API itself.
    pub(super) fn is_first_party(&self) -> bool {
        self.upstream_origin_url() == PUBLIC_API
    }

    /// The branch's readable part: `--name`, or the command's own name.
    pub(super) fn slug(&self) -> String {
        match &self.request.config.run.name {
            Some(slug) => slug.as_str().to_owned(),
            None => self.request.program.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("run").to_owned(),
        }
    }

    pub(super) fn dry_banner(&self) -> Banner {
        let work = match (self.workspace(), &self.checkout) {
            _ if self.earlier.is_some() => {
                let branch = self.earlier.as_ref().and_then(|view| view.branch.clone());
                branch.map_or_else(|| "goes on where it was".to_owned(), |branch| format!("goes on with {branch}"))
            }
            (Workspace::Clone, Some(checkout)) => format!("a fresh branch in a clone of {}", checkout.root.display()),
            (Workspace::SamePath, Some(checkout)) => format!("a fresh branch in a clone, seen at {}", checkout.root.display()),
            (Workspace::InPlace, Some(checkout)) => format!("a fresh branch in {}", checkout.root.display()),
            _ => format!("no branch: {} as it is", self.request.cwd.display()),
        };
        let aws = self.request.config.aws.role.clone().unwrap_or_else(|| super::wiring::NO_AWS.to_owned());
        Banner { dry_run: true, ..self.banner(aws, work, Vec::new(), Vec::new()) }
    }

    /// The banner, with what only the set-up knows.
    pub(super) fn banner(&self, aws: String, work: String, off: Vec<String>, notices: Vec<String>) -> Banner {
        Banner {
            short_id: self.id.short(),
            developer: self.developer.describe(),
            project: self.project.clone(),
            pays: self.pays(),
            budget: self.budget_line(),
            aws,
            work,
            wall: self.wall.words.clone(),
            off,
            notices: self.notices.iter().cloned().chain(notices).collect(),
            kill_file: self.dir().kill_file(),
            dry_run: false,
        }
    }

    fn pays(&self) -> String {
        let who = self.billing.long_words();
        match &self.upstream_origin {
            Some(origin) => format!("{who}, to {} (from {origin})", self.upstream_origin_url()),
            None => format!("{who}, to {}", self.upstream_origin_url()),
        }
    }

    fn time_line(&self) -> String {
        let used = if self.time_used.is_zero() { String::new() } else { format!(", {} of it used before", show_duration(self.time_used)) };
        self.time_limit.map(|limit| format!("; time limit {}{used}", show_time_limit(limit))).unwrap_or_default()
    }

    fn budget_line(&self) -> String {
        if self.limits.is_empty() {
            let none = match self.billing.kind {
                BillingKind::Subscription => "no limit in dollars on a subscription; --budget 2Mtok limits tokens".to_owned(),
                _ => "none".to_owned(),
            };
            return none + &self.shares.words() + &self.time_line();
        }
        let limits: Vec<String> = self.limits.iter().map(Limit::to_string).collect();
        let spent = match &self.earlier {
            Some(view) if view.cost_usd > Usd::ZERO => format!(", {} of it spent before", view.cost_usd.show()),
            _ => String::new(),
        };
        let (shared, time) = (self.shares.words(), self.time_line());
        let default = if self.limits_are_default { " (the default; --budget changes it)" } else { "" };
        format!("{}{spent}{default}{shared}{time}", limits.join(" and "))
    }
}

fn workspace_of(request: &RunRequest, earlier: Option<&SessionView>) -> Workspace {
    match (earlier, request.config.run.workspace) {
        (Some(view), _) => view.workspace,
        (None, config::Workspace::Clone) => Workspace::Clone,
        (None, config::Workspace::SamePath) => Workspace::SamePath,
        (None, config::Workspace::InPlace) => Workspace::InPlace,
        (None, config::Workspace::None) => Workspace::None,
    }
}

/// This machine's name.
pub(super) fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// Found out before any money is spent.
fn refuse_an_unwritable_result(request: &RunRequest) -> Result<(), RunError> {
    let Some(path) = &request.result_file else { return Ok(()) };
    let path = request.cwd.join(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(&request.cwd);
    let tried = tempfile::tempfile_in(dir).map(drop);
    tried.map_err(|error| RunError::io(error, &format!("write the result to {}", path.display())))
}

fn refuse_while_all_are_killed(request: &RunRequest) -> Result<(), RunError> {
    let file = request.state.kill_all_file();
    // As the watch sees it: a dangling link kills too.
    if file.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(RunError::words(format!("start a session while {} stops all of them", file.display()), Some(&format!("rm {}", file.display()))))
}

fn earlier_session(request: &RunRequest, id: SessionId) -> Result<SessionView, RunError> {
    let dir = request.state.session(id);
    if dir.is_alive().unwrap_or(false) {
        return Err(RunError::words(
            format!("resume session {}: it is still running", id.short()),
            Some(&format!("sentrely kill {}", id.short())),
        ));
    }
    dir.view().ok_or_else(|| {
        RunError::words(format!("resume session {}: its records are gone", id.short()), Some("`sentrely ls -a` lists all sessions"))
    })
}

async fn find_checkout(request: &RunRequest, earlier: Option<&SessionView>) -> Result<Option<Checkout>, RunError> {
    let cwd = match earlier {
        Some(view) => match &view.checkout {
            Some(path) => PathBuf::from(path),
            None => return Ok(None),
        },
        None if request.config.run.workspace == config::Workspace::None => return Ok(None),
        None => request.cwd.clone(),
    };
    let env = GitEnv::from_vars(request.env.clone());
    if let Some(view) = earlier.filter(|_| !cwd.is_dir()) {
        return Err(RunError::words(
            format!("resume session {}: its checkout {} is gone", view.short_id, cwd.display()),
            Some("put the checkout back where it was; the session's clone is kept until then"),
        ));
    }
    match spawn_blocking(move || Checkout::discover_with(&cwd, env)).await {
        Ok(Ok(checkout)) => Ok(Some(checkout)),
        Ok(Err(error)) => Err(hinted!(error)),
        Err(error) => Err(RunError::new(error, None)),
    }
}

/// Where and how the child reaches the model: what Claude itself would use, else the configuration, else the public API.
fn read_claude(request: &RunRequest, notices: &mut Vec<String>) -> Result<(Option<Claude>, Login, String, Option<String>), RunError> {
    let places = Places::new(&request.env, &request.cwd);
    let (claude, settings) = match request.program.kind {
        Kind::Claude => match arguments::classify(&request.command[1..]) {
            Use::Session(args) => {
                let settings = Settings::read(&places, &args).map_err(|error| hinted!(error))?;
                (Some((args, places)), settings)
            }
            Use::Refuse { why, hint } => return Err(RunError::words(format!("supervise it: {why}"), Some(&hint))),
            Use::PassThrough { why } => return Err(RunError::words(format!("supervise what is no session: {why}"), None)),
        },
        Kind::Other => (None, Settings::default()),
    };
    let found = match &claude {
        Some((args, places)) => Login::find(places, &request.env, &settings, args, args.interactive(std::io::stdout().is_terminal()))
            .map_err(|error| hinted!(error))?,
        None => plain_login(request),
    };
    let found = match (found, &request.config.upstream.api_key) {
        (Login::None, Some(reference)) => {
            let key = reference.resolve().map_err(|error| hinted!(error))?;
            Login::ApiKey { key, origin: Place::Config("[upstream] api_key") }
        }
        (found, _) => found,
    };
    if let Login::Vertex { location, base_url } = &found {
        let upstream = upstream::of_vertex(location, base_url.as_ref()).map_err(|error| hinted!(error))?;
        let origin = base_url.as_ref().map(|_| upstream.origin.to_string());
        notices.extend(settings.notices.iter().cloned());
        let claude = claude.map(|(args, places)| Claude { args, settings, places });
        return Ok((claude, found, upstream.url, origin));
    }
    let chosen = upstream::find(&settings, &request.env).map_err(|error| hinted!(error))?;
    let (url, origin) = match (chosen, &request.config.upstream.base_url) {
        (Some(upstream), _) => (upstream.url, Some(upstream.origin.to_string())),
        (None, Some(url)) => (url.clone(), Some("[upstream] base_url".to_owned())),
        (None, None) => (PUBLIC_API.to_owned(), None),
    };
    notices.extend(settings.notices.iter().cloned());
    let claude = claude.map(|(args, places)| Claude { args, settings, places });
    Ok((claude, found, url, origin))
}

/// The credential of a command that is not Claude Code: the variables that Anthropic's SDKs read.
fn plain_login(request: &RunRequest) -> Login {
    match (text(&request.env, "ANTHROPIC_API_KEY"), text(&request.env, "ANTHROPIC_AUTH_TOKEN")) {
        (Some(key), _) => Login::ApiKey { key: key.to_owned().into(), origin: Place::Environment },
        (None, Some(token)) => Login::AuthToken { token: token.to_owned().into(), api_key: None, origin: Place::Environment },
        (None, None) => Login::None,
    }
}

/// The limits, and whether they are the default.
fn limits(request: &RunRequest, earlier: Option<&SessionView>, billing: &Billing) -> (Vec<Limit>, bool) {
    let default: &[Limit] = match billing.kind {
        BillingKind::Subscription => &[],
        BillingKind::Key | BillingKind::Bedrock | BillingKind::Vertex | BillingKind::None => &[Limit::Usd(DEFAULT_BUDGET)],
    };
    let own = earlier.map(|view| view.budgets.iter().filter_map(BudgetView::as_limit).collect::<Vec<_>>());
    let (asked, by) = (&request.asked.budget.limits, &request.asked_by.get("budget.limits").origin);
    Claims { asked, by, own: own.as_deref(), default, policy: &request.policy.budget.limits }.decide()
}

/// The time limit and what is used of it. One that is used up is said before anything is made.
fn time(request: &RunRequest, earlier: Option<&SessionView>) -> Result<(Option<Duration>, Duration), RunError> {
    let own = earlier.and_then(|view| view.time_limit_s).map(Duration::from_secs);
    let by = &request.asked_by.get("run.timeout").origin;
    let limit = limits::time_limit(request.asked.run.timeout, by, own, request.policy.run.timeout);
    let Some(view) = earlier else { return Ok((limit, Duration::ZERO)) };
    // Without its records it is not resumed at all.
    let records = read_journal(&request.state.session(view.id).journal_file()).unwrap_or_default();
    let used = time_used(&records);
    if let Some(limit) = limit.filter(|limit| used >= *limit) {
        let (id, limit) = (&view.short_id, show_time_limit(limit));
        let hint = format!("sentrely run --resume {id} --timeout … -- …  gives it more, counted from its first start");
        let error = RunError::words(format!("resume session {id}: its time limit of {limit} is used up"), Some(&hint));
        return Err(RunError { code: EXIT_TIME_LIMIT, ..error });
    }
    Ok((limit, used))
}

async fn who(request: &RunRequest, checkout: Option<&Checkout>, source: &aws::Source, reporter: &Reporter) -> Result<Developer, RunError> {
    let configured = request.config.run.developer.clone();
    let ci_actor = developer::ci_actor(|name| text(&request.env, name).map(str::to_owned));
    let mut sts = None;
    if configured.is_none() && ci_actor.is_none() && request.config.aws.role.is_some() {
        reporter(Report::Step("asking STS who is calling".to_owned()));
        let caller = aws::caller(source).await.map_err(|error| hinted!(error))?;
        reporter(Report::StepDone);
        sts = caller.developer().map(str::to_owned);
    }
    let git_email = match checkout {
        Some(checkout) => checkout.user_email(),
        None => git::default_email(),
    };
    let login = text(&request.env, "USER").or_else(|| text(&request.env, "LOGNAME")).map(str::to_owned);
    Ok(Developer::decide(Known { configured, sts, ci_actor, git_email, login }))
}

fn project(request: &RunRequest, checkout: Option<&Checkout>) -> String {
    if let Some(project) = &request.config.run.project {
        return project.clone();
    }
    match checkout {
        Some(checkout) => checkout.project(),
        None => request.cwd.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

/// The built-in prices with the user's own in their place.
fn prices(config: &config::Config) -> Prices {
    let own = config.prices.clone();
    // A table that could not be read would hold no model, so every request would be refused; a test reads it.
    Prices::made_by(move || with_own(PriceTable::built_in().unwrap_or_default(), &own))
}

/// The prices that sessions with this configuration reckon by.
pub fn price_table(config: &config::Config) -> PriceTable {
    with_own(PriceTable::built_in().unwrap_or_default(), &config.prices)
}

fn with_own(mut table: PriceTable, own: &BTreeMap<String, config::Price>) -> PriceTable {
    for (model, price) in own {
        let known = table.find(model).map(|found| found.price.rates);
        let rate =
            |own: Option<Usd>, known: Option<Usd>| own.map(|own| Usd::from_pico(own.pico() / 1_000_000)).or(known).unwrap_or_default();
        let rates = Rates {
            input: rate(price.input, known.map(|rates| rates.input)),
            output: rate(price.output, known.map(|rates| rates.output)),
            cache_write_5m: rate(price.cache_write_5m, known.map(|rates| rates.cache_write_5m)),
            cache_write_1h: rate(price.cache_write_1h, known.map(|rates| rates.cache_write_1h)),
            cache_read: rate(price.cache_read, known.map(|rates| rates.cache_read)),
        };
        table.set(model, rates);
    }
    table
}
