//! A proxy whose events and bookings can be waited for.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sentrely::meter::price::PriceTable;
use sentrely::meter::{Booked, Meter, Rules, Settlement};
use sentrely::model::Event;
use sentrely::proxy::{Credential, Dialect, Proxy, ProxyConfig, ProxyEnv, ProxyEvent, RefusalStyle, Timeouts, Upstream};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{Client, REAL_KEY, TOKEN, soon};

/// What a rig is built from.
pub(crate) struct Plan {
    pub(crate) upstream: String,
    pub(crate) limits: Vec<&'static str>,
    pub(crate) credential: Credential,
    pub(crate) refusal: RefusalStyle,
    pub(crate) timeouts: Timeouts,
    pub(crate) sentinel: Option<String>,
    pub(crate) extra_ca: Option<std::path::PathBuf>,
    pub(crate) proxy_env: ProxyEnv,
    pub(crate) journal_lost: bool,
    pub(crate) dialect: Dialect,
}

impl Plan {
    pub(crate) fn to(upstream: &str) -> Self {
        Self {
            upstream: upstream.to_owned(),
            limits: vec!["5usd"],
            credential: Credential::ApiKey(REAL_KEY.into()),
            refusal: RefusalStyle::Plain,
            timeouts: Timeouts::default(),
            sentinel: None,
            extra_ca: None,
            proxy_env: ProxyEnv::default(),
            journal_lost: false,
            dialect: Dialect::default(),
        }
    }

    pub(crate) async fn start(self) -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settled: Arc<Mutex<Vec<Settlement>>> = Arc::default();
        let events: Arc<Mutex<Vec<ProxyEvent>>> = Arc::default();
        let changed = Arc::new(Notify::new());
        let (sink_settled, sink_events) = (Arc::clone(&settled), Arc::clone(&events));
        let (changed_1, changed_2) = (Arc::clone(&changed), Arc::clone(&changed));
        let limits = self.limits.iter().map(|limit| limit.parse().unwrap()).collect();
        let meter = Meter::new(
            PriceTable::built_in().unwrap(),
            Rules { limits, alert_at: vec![], refuse_unknown_models: false },
            Booked::default(),
            Arc::new(move |settlement: &Settlement| {
                sink_settled.lock().unwrap().push(settlement.clone());
                changed_1.notify_waiters();
            }),
        );
        let journal_lost = self.journal_lost;
        let config = ProxyConfig {
            token: TOKEN.into(),
            upstream: Upstream::new(&self.upstream, self.extra_ca, self.proxy_env).unwrap().speaking(self.dialect),
            credential: self.credential,
            refusal: self.refusal,
            meter: meter.clone(),
            sentinel: self.sentinel,
            timeouts: self.timeouts,
            body_tap: None,
            refuse_compaction: false,
            sink: Arc::new(move |event| {
                if journal_lost {
                    return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
                }
                sink_events.lock().unwrap().push(event);
                changed_2.notify_waiters();
                Ok(())
            }),
        };
        let proxy = Proxy::start(listener, config).unwrap();
        Rig { proxy, meter, address, settled, events, changed }
    }
}

/// A running proxy and everything it has told.
pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) meter: Meter,
    pub(crate) address: SocketAddr,
    settled: Arc<Mutex<Vec<Settlement>>>,
    events: Arc<Mutex<Vec<ProxyEvent>>>,
    changed: Arc<Notify>,
}

impl Rig {
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub(crate) fn settled(&self) -> Vec<Settlement> {
        self.settled.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<ProxyEvent> {
        self.events.lock().unwrap().clone()
    }

    /// What was journaled, but for ceilings that were raised: most tests have prompts longer than their requests could be.
    pub(crate) fn journal(&self) -> Vec<Event> {
        let events = self.events().into_iter().filter_map(|event| if let ProxyEvent::Journal(event) = event { Some(event) } else { None });
        events.filter(|event| !matches!(event, Event::CeilingRaised { .. })).collect()
    }

    /// Waits until so many requests are settled.
    pub(crate) async fn until_settled(&self, count: usize) -> Vec<Settlement> {
        self.until("a settlement", || Some(self.settled()).filter(|settled| settled.len() >= count)).await
    }

    /// Waits until something is so.
    pub(crate) async fn until<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        soon(what, async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = check() {
                    return found;
                }
                changed.await;
            }
        })
        .await
    }
}
