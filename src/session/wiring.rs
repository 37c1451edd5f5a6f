//! Putting the parts together: AWS lease, meter, proxy, the child's environment, the child.

mod beginning;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::beginning::begin;
use self::watching::{all_budgets, watch};
use super::alerting::Alarms;
use super::anatomist::Anatomist;
use super::child::child;
use super::chronicle::Chronicle;
use super::claude::login::Login;
use super::claude::transcripts::{Scope, TranscriptWatch};
use super::context::ContextWatch;
use super::ending::Ending;
use super::familiar;
use super::lifecycle::{Input, Lifecycle, StopCall};
use super::metering::{meter, sink};
use super::network::Cut;
use super::notices::{Audience, Notice};
use super::prepare::{Prepared, host};
use super::report::{Report, Reporter};
use super::saving;
use super::sharing::Sharing;
use super::sources::{self, BypassWatch};
use super::supervisor::Supervisor;
use super::wall::{self};
use super::workplace::{self, Workplace};
use super::{RunError, control, hinted, limits, payer};
use crate::aws::{DeliveryKind, Lease, LeaseRequest};
use crate::config::{Delivery, OnBudget, OnCredentialsLost};
use crate::git::Gate;
use crate::meter::Meter;
use crate::model::{BudgetView, EXIT_FAILED_PROMISE, Event, Outcome, SessionState, SessionView, StopReason, Workspace, limits_set};
use crate::process::{Cgroup, GuardianLink, Keep};
use crate::proxy::{Dialect, Proxy, ProxyConfig, ProxyEnv, Timeouts, Upstream};
use crate::store::append_to_index;

/// The banner's AWS line without a role.
pub(super) const NO_AWS: &str = "none (yours withheld)";

/// The helper's own ten seconds, and a little for the way there.
const HELPER_PATIENCE: Duration = Duration::from_secs(12);

/// Starts everything; from here on the supervisor has it.
pub(super) async fn start(
    prepared: Prepared,
    workplace: Workplace,
    guardian: Arc<GuardianLink>,
    reporter: Reporter,
) -> Result<Supervisor, RunError> {
    let chronicle = workplace.chronicle.clone();
    let attempt = prepared.earlier.as_ref().map_or(0, |view| view.attempts) + 1;
    // Whatever fails from here on belongs to the session's record.
    let state = prepared.request.state.path().to_owned();
    let (checkout, copy) = (prepared.checkout.clone(), workplace.copy.clone());
    let not_started = match start_parts(prepared, workplace, guardian, Arc::clone(&reporter), attempt).await {
        Ok(supervisor) => return Ok(supervisor),
        Err(not_started) => not_started,
    };
    let NotStarted { error, reason } = not_started;
    if attempt == 1 {
        workplace::undo(checkout, copy, &reporter).await;
    }
    let what = format!("could not start: {:#}", error.error);
    let _ = chronicle.record(Event::Notice { what });
    let ended =
        Event::AttemptEnded { reason, exit_code: error.code, processes_ended: 0, survivors: Vec::new(), outcome: Outcome::default() };
    let _ = chronicle.record(ended);
    let _ = chronicle.sync();
    let _ = chronicle.publish();
    if let Err(error) = append_to_index(&state, &chronicle.view()) {
        reporter(Report::Alarm(format!("the index of sessions could not be written: {error}")));
    }
    Err(error)
}

/// Why the command never ran, and as what that counts in the record.
struct NotStarted {
    error: RunError,
    reason: StopReason,
}

impl From<RunError> for NotStarted {
    fn from(error: RunError) -> Self {
        Self { error, reason: StopReason::ChildExited }
    }
}

async fn start_parts(
    mut prepared: Prepared,
    mut workplace: Workplace,
    guardian: Arc<GuardianLink>,
    reporter: Reporter,
    attempt: u32,
) -> Result<Supervisor, NotStarted> {
    let chronicle = workplace.chronicle.clone();
    let mut lease = lease(&prepared, &reporter).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| RunError::io(error, "open the proxy on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(|error| RunError::io(error, "open the proxy on 127.0.0.1"))?;
    let base_url = Proxy::url_for(address, &prepared.token);
    let mut start = child(&prepared, &workplace, &base_url, lease.as_ref(), attempt)?;
    let cut = Cut::of(&prepared, address, workplace.gate.as_ref().map(Gate::url), lease.as_ref().map(Lease::delivery));
    if let Some(helper) = &start.helper {
        start.credential = helper.run().await?;
        if let Some(billing) = start.credential.billing() {
            payer::refuse_another(prepared.request.config.billing.expect, &billing, &prepared.login.origin_words())?;
            prepared.billing = billing;
        }
    }

    let sharing = Sharing::join(&prepared.shares, &prepared.request, &workplace, Timestamp::now())?;
    record(&chronicle, attempt_started(&prepared, attempt))?;
    if let Some(id) = &start.claude_session {
        record(&chronicle, Event::ClaudeSession { id: id.clone() })?;
    }
    let context = context_watch(&prepared, &workplace, &reporter);
    if let Some(id) = &start.claude_session {
        context.see(&Event::ClaudeSession { id: id.clone() });
    }
    let anatomist = Anatomist::new(workplace.dir.clone());
    let (alarms, posting) = Alarms::start(prepared.alerts.clone(), chronicle.clone());
    let (meter, reached) = meter(&prepared, &workplace, &reporter, alarms.clone(), context.clone(), sharing.clone());
    let helper_wanted = Arc::new(Notify::new());
    let proxy_config = ProxyConfig {
        token: prepared.token.clone(),
        upstream: upstream(&prepared)?,
        credential: start.credential.clone(),
        refusal: start.refusal,
        meter: meter.clone(),
        sentinel: start.sentinel.clone(),
        timeouts: Timeouts { credential_renewal: start.helper.as_ref().map_or(Duration::ZERO, |_| HELPER_PATIENCE), ..Timeouts::default() },
        sink: sink(&workplace, reached, Arc::clone(&helper_wanted), start.sentinel.is_some(), context.clone()),
        body_tap: Some(anatomist.tap()),
        refuse_compaction: prepared.request.config.context.stop_on_compaction.0,
    };
    let proxy = Arc::new(Proxy::start(listener, proxy_config).map_err(|error| RunError::io(error, "start the proxy"))?);

    watch(&proxy, &prepared, &mut workplace, &reporter, &alarms, &meter, sharing.as_ref())?;

    let mut tasks = vec![serve_control(&prepared, &workplace, &meter, sharing.as_ref())?];
    tasks.append(&mut workplace.tasks);
    if let Some(events) = lease.as_mut().and_then(Lease::events) {
        let stop = prepared.request.config.aws.on_credentials_lost == OnCredentialsLost::Stop;
        tasks.push(sources::lease(events, chronicle.clone(), minted(&prepared, lease.as_ref()), stop, workplace.inputs.clone()));
    }
    if let Some(helper) = start.helper {
        tasks.push(helper.keep_fresh(Arc::clone(&proxy), helper_wanted));
    }
    workplace.links = familiar::share_conversations(&prepared, &workplace);
    let unheard = familiar::share_memory(&prepared, &workplace);
    if !unheard.is_empty() {
        let files: Vec<String> = unheard.iter().map(|file| file.display().to_string()).collect();
        start.notices.push(format!("memory files above your checkout that Claude Code does not read here: {}", files.join(", ")));
    }
    let bypass = bypass_watch(&prepared, &workplace, &proxy)?;

    reporter(Report::Banner(Box::new(prepared.banner(
        aws_line(lease.as_ref()),
        work_line(&prepared, &workplace),
        start.off,
        workplace.notices.iter().cloned().chain(start.notices).collect(),
    ))));
    // Whoever asked for an end meanwhile shall not see a beginning.
    let asked = std::iter::from_fn(|| workplace.inputs_received.try_recv().ok()).filter_map(stop_call);
    if let Some((call, code)) = asked.max_by_key(|(call, _)| call.reason) {
        return Err(interrupted(call, code, &chronicle));
    }
    let (agent, deadline) = begin(&prepared, &mut workplace, start.args, start.env, cut, &mut tasks)?;
    // A guardian that is gone already is told by its own source.
    let _ = guardian.agent(agent.pid(), agent.cgroup().map(Cgroup::path));
    let cgroup = agent.cgroup().map(|cgroup| cgroup.path().display().to_string());
    record(&chronicle, Event::ChildStarted { pid: agent.pid().unsigned_abs(), start: agent.start(), cgroup, mounts: agent.mounts() })?;
    reporter(Report::ChildRuns { owns_terminal: agent.owns_terminal() });
    let _ = chronicle.publish();

    let config = &prepared.request.config;
    tasks.extend(saved_often(&prepared, &workplace));
    let keep = Keep::new(&config.run.keep);
    let life = Lifecycle::new(config.run.grace, config.budget.on_budget == OnBudget::Stop);
    Ok(Supervisor {
        agent,
        life,
        proxy,
        lease,
        bypass,
        guardian,
        tasks,
        deadline,
        reporter,
        anatomist,
        alarms,
        posting,
        ending: Ending::new(prepared, context, sharing),
        workplace,
        exit: None,
        stopped_at: None,
        pushes_ended_at: None,
        keep,
        note: None,
    })
}

fn record(chronicle: &Chronicle, event: Event) -> Result<(), RunError> {
    chronicle.record(event).map_err(|error| RunError::io(error, "write the session's journal"))
}

/// The stop that an input asks for and what `run` exits with for it; what only a running command can cause asks for none.
fn stop_call(input: Input) -> Option<(StopCall, u8)> {
    match input {
        Input::Stop(call) => {
            let code = call.reason.exit_code().unwrap_or(EXIT_FAILED_PROMISE);
            Some((call, code))
        }
        Input::Signal(number, name) => {
            let code = u8::try_from(128 + number).unwrap_or(EXIT_FAILED_PROMISE);
            Some((StopCall::own(StopReason::Terminated, &format!("signal {name}"), None), code))
        }
        Input::ChildExited | Input::PatienceOver => None,
    }
}

fn interrupted(call: StopCall, code: u8, chronicle: &Chronicle) -> NotStarted {
    let StopCall { reason, by, from, note, now: _ } = call;
    let words = format!("start: the session was stopped before its command began, by {by}");
    let _ = chronicle.record(Event::StopRequested { reason, by, from, note });
    NotStarted { error: RunError { code, ..RunError::words(words, None) }, reason }
}

async fn lease(prepared: &Prepared, reporter: &Reporter) -> Result<Option<Lease>, RunError> {
    let config = &prepared.request.config.aws;
    let Some(role_arn) = config.role.clone() else { return Ok(None) };
    reporter(Report::Step(format!("assuming {role_arn}")));
    let request = LeaseRequest {
        role_arn,
        session: prepared.id,
        developer: prepared.developer.name.clone(),
        project: prepared.project.clone(),
        duration: Some(config.duration),
        external_id: config.external_id.clone(),
        delivery: match config.delivery {
            Delivery::Endpoint => DeliveryKind::Endpoint,
            Delivery::Env => DeliveryKind::Env,
        },
        source: prepared.aws_source.clone(),
    };
    let lease = Lease::start(request).await.map_err(|error| hinted!(error))?;
    reporter(Report::StepDone);
    Ok(Some(lease))
}

fn attempt_started(prepared: &Prepared, attempt: u32) -> Event {
    let spent = prepared.earlier.as_ref().map(SessionView::spent).unwrap_or_default();
    Event::AttemptStarted {
        attempt,
        pid: std::process::id(),
        host: host(),
        boot_id: crate::system::boot_id(),
        command: prepared.request.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        billing: prepared.billing.clone(),
        upstream: prepared.upstream_origin_url(),
        budgets: prepared.limits.iter().map(|limit| BudgetView::of(*limit, &spent)).chain(prepared.shares.views()).collect(),
        wall: prepared.wall.words.clone(),
        time_limit_s: prepared.time_limit.map(|limit| limit.as_secs()),
    }
}

/// Brings the work home every few minutes.
fn saved_often(prepared: &Prepared, workplace: &Workplace) -> Option<JoinHandle<()>> {
    let (copy, checkout) = (workplace.copy.as_ref()?, prepared.checkout.as_ref()?);
    let config = &prepared.request.config.git;
    let wip = config.wip_commit.then(|| saving::message(prepared.id));
    workplace.saver.often(config.collect_every, checkout.clone(), copy.clone(), wip, workplace.chronicle.clone())
}

fn context_watch(prepared: &Prepared, workplace: &Workplace, reporter: &Reporter) -> ContextWatch {
    ContextWatch::new(
        prepared.request.config.context.clone(),
        &workplace.earlier,
        workplace.chronicle.clone(),
        workplace.inputs.clone(),
        Arc::clone(reporter),
        workplace.inside.clone(),
    )
}

fn upstream(prepared: &Prepared) -> Result<Upstream, RunError> {
    let proxy_env = ProxyEnv::from_vars(|name| prepared.variable(name));
    let upstream = Upstream::new(&prepared.upstream, extra_ca(prepared), proxy_env).map_err(|error| RunError::new(error, None))?;
    Ok(upstream.speaking(dialect(prepared)))
}

/// What the upstream speaks. Google's own address serves one location; what is configured may serve several.
fn dialect(prepared: &Prepared) -> Dialect {
    match &prepared.login {
        Login::Vertex { location, base_url } => Dialect::Vertex { location: base_url.is_none().then(|| location.clone()) },
        _ => Dialect::Anthropic,
    }
}

fn extra_ca(prepared: &Prepared) -> Option<PathBuf> {
    let configured = prepared.request.config.upstream.extra_ca.clone();
    configured.or_else(|| prepared.variable("NODE_EXTRA_CA_CERTS").map(PathBuf::from))
}

fn minted(prepared: &Prepared, lease: Option<&Lease>) -> impl Fn(String, Timestamp) -> Event + Send + 'static {
    let role_arn = prepared.request.config.aws.role.clone().unwrap_or_default();
    let role_session_name = lease.map(|lease| lease.role_session_name().to_owned()).unwrap_or_default();
    let delivery = match prepared.request.config.aws.delivery {
        Delivery::Endpoint => "endpoint",
        Delivery::Env => "env",
    };
    move |access_key_id, expires_at| Event::AwsMinted {
        role_arn: role_arn.clone(),
        role_session_name: role_session_name.clone(),
        access_key_id,
        delivery: delivery.to_owned(),
        expires_at,
    }
}

fn serve_control(prepared: &Prepared, workplace: &Workplace, meter: &Meter, sharing: Option<&Sharing>) -> Result<JoinHandle<()>, RunError> {
    let path = workplace.dir.control_socket();
    let listener = control::bind(&path).map_err(|error| RunError::io(error, &format!("open the control socket {}", path.display())))?;
    let all = all_budgets(meter, sharing);
    let (meter, chronicle) = (meter.clone(), workplace.chronicle.clone());
    let (policy, inside) = (prepared.request.policy.budget.limits.clone(), workplace.inside.clone());
    let handler: control::Handler = Arc::new(move |wish| {
        if let Some(control::Wish { change, by, from }) = wish {
            if chronicle.view().state == SessionState::Stopping {
                return Err("it is on its way down".to_owned());
            }
            let limits = limits::changed(&meter.limits(), change, &policy)?;
            let spent = meter.spent();
            let budgets: Vec<_> = limits.iter().map(|limit| BudgetView::of(*limit, &spent)).collect();
            let text = format!("sentrely: {}", limits_set(&budgets, &by, None));
            chronicle.record(Event::LimitsSet { budgets, by, from }).map_err(|error| error.to_string())?;
            meter.set_limits(limits);
            inside.post(Notice { audience: Audience::Person, once_key: format!("{text} {}", Timestamp::now()), text });
            // Whoever looks next is to see it.
            let _ = chronicle.publish();
        }
        Ok(all())
    });
    let supervisor = nix::unistd::getpid().as_raw();
    Ok(tokio::spawn(control::serve(listener, supervisor, handler)))
}

fn bypass_watch(prepared: &Prepared, workplace: &Workplace, proxy: &Arc<Proxy>) -> Result<Option<BypassWatch>, RunError> {
    let Some(claude) = &prepared.claude else { return Ok(None) };
    // In a clone of its own everything that is written for this folder is the session's; elsewhere another session may work.
    // A client that keeps no transcripts may still start one that does.
    let scope = match prepared.workspace() {
        Workspace::Clone => Scope::Directory(workplace.cwd.clone()),
        Workspace::SamePath | Workspace::InPlace | Workspace::None => {
            Scope::Sessions(claude.args.resume.iter().flatten().chain(&claude.args.session_id).cloned().collect())
        }
    };
    let config_dir = claude.places.config_dir.clone();
    let watch = TranscriptWatch::new(&config_dir, scope, Timestamp::now());
    let (own, all) = (workplace.copy.as_ref().map_or(&workplace.cwd, |copy| &copy.root), prepared.request.state.path().join("sessions"));
    let watch = watch.sharing(&workplace.links.shared, own, &all);
    let started = BypassWatch::start(
        config_dir,
        watch,
        wall::outside(prepared),
        Arc::clone(proxy),
        workplace.chronicle.clone(),
        workplace.inputs.clone(),
    );
    started.map(Some).map_err(|error| RunError::io(error, "watch the transcripts"))
}

fn aws_line(lease: Option<&Lease>) -> String {
    match lease {
        None => NO_AWS.to_owned(),
        Some(lease) => {
            let until = lease.expires_at().map(|at| format!(", renewed before {at:.0}")).unwrap_or_default();
            format!("{}{until}", lease.role_session_arn())
        }
    }
}

fn work_line(prepared: &Prepared, workplace: &Workplace) -> String {
    match &workplace.copy {
        None => format!("no branch: {} as it is", workplace.cwd.display()),
        Some(copy) => {
            let place = match prepared.workspace() {
                Workspace::InPlace => "in your checkout",
                Workspace::SamePath => "seen at your checkout's path, kept in",
                _ => "in",
            };
            format!("{} from {}, {place} {}", copy.branch, copy.base, copy.root.display())
        }
    }
}
