//! What the fold promises.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::model::{Outcome, RequestId, StopReason, Thread, Usage};

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn day(day: i8) -> Date {
    jiff::civil::date(2026, 11, day)
}

fn member(developer: &str, project: &str) -> Member {
    Member { session: SessionId::new(), developer: developer.into(), project: project.into(), host: "vm".into() }
}

fn at(member: &Member, on: i8, spent: &str, held: &str) -> Entry {
    Entry::At { session: member.session, day: day(on), spent: usd(spent), held: usd(held) }
}

fn fold(entries: impl IntoIterator<Item = Entry>) -> Ledger {
    let mut ledger = Ledger::default();
    entries.into_iter().for_each(|entry| ledger.apply(entry).unwrap());
    ledger
}

fn limit(scope: Scope, period: Period, amount: &str) -> SharedLimit {
    SharedLimit { share: Share { scope, period }, amount: usd(amount) }
}

const fn need(under_way: Usd) -> Need {
    Need { under_way, margin: Usd::ZERO }
}

#[test]
fn a_limit_counts_the_sessions_and_the_days_that_it_is_for() {
    let (ana, bea) = (member("ana", "shop"), member("bea", "shop"));
    let lines =
        [Entry::Member(ana.clone()), at(&ana, 28, "1", "0"), at(&ana, 29, "2", "0.5"), Entry::Member(bea.clone()), at(&bea, 29, "4", "0")];
    let ledger = fold(lines);
    let spent = |of: &Member, scope, period| ledger.spent(of, Share { scope, period }, day(29));
    assert_eq!(spent(&ana, Scope::Developer, Period::Day), usd("2"));
    assert_eq!(spent(&ana, Scope::Developer, Period::Month), usd("3"));
    assert_eq!(spent(&ana, Scope::Project, Period::Day), usd("6"));
    assert_eq!(spent(&bea, Scope::Machine, Period::Month), usd("7"));
    assert_eq!(ledger.holders(), [(ana.session, usd("0.5"))]);
}

#[test]
fn what_others_hold_is_not_free_and_the_refusal_says_until_when() {
    let (ana, other) = (member("ana", "shop"), member("ana", "blog"));
    let ledger = fold([Entry::Member(ana.clone()), at(&ana, 29, "18", "1.8"), Entry::Member(other.clone())]);
    let limits = [limit(Scope::Developer, Period::Day, "20")];
    let lack = ledger.grant(&other, &limits, day(29), need(usd("0.3"))).unwrap_err();
    let words =
        "the developer's limit of $20.00 a day does not cover this request: $19.80 spent or held; it is free again on 2026-11-30 (UTC)";
    assert_eq!(lack.to_string(), words);
    assert_eq!(ledger.grant(&other, &limits, day(29), need(usd("0.2"))), Ok(usd("0.2")));
    // What it holds itself is its own.
    assert_eq!(ledger.grant(&ana, &limits, day(29), need(usd("2"))), Ok(usd("2")));
    // The next day is another one, and what is under way still counts.
    let lack = ledger.grant(&other, &limits, day(30), need(usd("18.3"))).unwrap_err();
    assert_eq!((lack.used, lack.free_on.to_string()), (usd("1.8"), "2026-12-01".to_owned()));
    let month = [limit(Scope::Developer, Period::Month, "18")];
    let lack = ledger.grant(&other, &month, day(30), need(Usd::ZERO)).unwrap_err();
    assert_eq!(
        lack.to_string(),
        "the developer's limit of $18.00 a month is used up: $19.80 spent or held; it is free again on 2026-12-01 (UTC)"
    );
}

#[test]
fn a_session_is_brought_to_what_its_journal_says_once() {
    let ana = member("ana", "shop");
    let mut ledger = fold([Entry::Member(ana.clone()), at(&ana, 29, "1", "0.5")]);
    let days = BTreeMap::from([(day(28), usd("3")), (day(29), usd("1.2"))]);
    let lines = ledger.settle(&ana, &days);
    assert_eq!(lines, [at(&ana, 28, "3", "0"), at(&ana, 29, "1.2", "0")]);
    for line in lines {
        ledger.apply(line).unwrap();
    }
    assert_eq!((ledger.settle(&ana, &days), ledger.holders()), (vec![], vec![]));
    let bea = member("bea", "shop");
    assert_eq!(ledger.settle(&bea, &days)[0], Entry::Member(bea.clone()));
    assert_eq!(ledger.settle(&bea, &BTreeMap::new()), []);
    let holds = fold([Entry::Member(ana.clone()), at(&ana, 29, "1.2", "0.5")]);
    assert_eq!(holds.settle(&ana, &BTreeMap::from([(day(29), usd("1.2"))])), [at(&ana, 29, "1.2", "0")]);
}

#[test]
fn a_line_of_a_session_that_never_came_is_an_error() {
    assert_eq!(Ledger::default().apply(at(&member("ana", "shop"), 29, "1", "0")), Err(Stranger));
}

#[test]
fn a_line_reads_back_as_it_is_written() {
    let ana = member("ana", "shop");
    for entry in [Entry::Member(ana.clone()), at(&ana, 9, "0.4000015", "0"), Entry::Complete] {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
    let text = serde_json::to_string(&at(&ana, 9, "0.4", "0")).unwrap();
    assert_eq!(text, format!(r#"{{"kind":"at","session":"{}","day":"2026-11-09","spent":"0.4","held":"0"}}"#, ana.session));
}

fn record(at: &str, event: Event) -> Record {
    Record { v: 1, seq: 1, at: at.parse::<Timestamp>().unwrap(), prev: String::new(), event }
}

fn admitted(at: &str, request: u64, ceiling: &str) -> Record {
    let (request, ceiling) = (RequestId(request), usd(ceiling));
    record(at, Event::RequestAdmitted { request, thread: Thread::Main, model: "m".into(), ceiling, ceiling_tokens: 1 })
}

fn settled(at: &str, request: u64, cost: &str) -> Record {
    let event = Event::RequestSettled {
        request: RequestId(request),
        thread: Thread::Main,
        model: "m".into(),
        usage: Usage::default(),
        cost: usd(cost),
        estimated: false,
        lost: false,
        message_id: None,
        window: None,
    };
    record(at, event)
}

#[test]
fn a_request_counts_on_the_day_it_is_settled_and_a_lost_one_on_the_day_it_was_let_through() {
    let end = Event::AttemptEnded {
        reason: StopReason::Crashed,
        exit_code: 125,
        processes_ended: 0,
        survivors: vec![],
        outcome: Outcome::default(),
    };
    let raised = Event::CeilingRaised { request: RequestId(2), ceiling: usd("3"), ceiling_tokens: 1 };
    let records = [
        admitted("2026-11-28T23:59:00Z", 1, "9"),
        admitted("2026-11-28T23:59:00Z", 2, "1"),
        settled("2026-11-29T00:01:00Z", 1, "0.4"),
        record("2026-11-29T00:02:00Z", raised),
    ];
    assert_eq!(spent_by_day(&records), BTreeMap::from([(day(29), usd("0.4"))]), "what is under way is held");
    let crashed = records.iter().cloned().chain([record("2026-11-30T12:00:00Z", end)]).collect::<Vec<_>>();
    assert_eq!(spent_by_day(&crashed), BTreeMap::from([(day(28), usd("3")), (day(29), usd("0.4"))]));
}

/// What one session does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(u64),
    /// An answer grows by so much.
    Grow(u64),
    /// It ends, for so many percent of what was under way.
    Settle(u64),
    Tomorrow,
    Crash,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u64..2_000).prop_map(Step::Begin),
        6 => (1_u64..400).prop_map(Step::Grow),
        3 => (10_u64..=100).prop_map(Step::Settle),
        1 => Just(Step::Tomorrow),
        1 => Just(Step::Crash),
    ]
}

/// A thousandth of a cent.
const UNIT: u64 = 10_000_000;
const SESSIONS: usize = 12;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever sessions do in whatever order: what they have spent and hold is within every limit, the sums are those of the lines, and
    /// nothing is refused while a fifth of a limit is free.
    #[test]
    fn all_together_never_pass_a_limit_and_nothing_is_refused_that_fits(
        steps in prop::collection::vec((0..SESSIONS, any_step()), 1..400),
        amount in 2_000_u64..60_000,
    ) {
        let members: Vec<Member> = (0..SESSIONS).map(|n| member(["ana", "bea", "cem"][n % 3], ["shop", "blog"][n % 2])).collect();
        let amount = |share: u64| Usd::from_pico(amount * UNIT * share / 100);
        let limits = [
            SharedLimit { share: Share { scope: Scope::Developer, period: Period::Day }, amount: amount(60) },
            SharedLimit { share: Share { scope: Scope::Project, period: Period::Month }, amount: amount(150) },
            SharedLimit { share: Share { scope: Scope::Machine, period: Period::Day }, amount: amount(100) },
        ];
        let mut lines: Vec<Entry> = members.iter().cloned().map(Entry::Member).collect();
        let mut ledger = fold(lines.clone());
        let mut spent = vec![BTreeMap::<Date, Usd>::new(); SESSIONS];
        let (mut under_way, mut held) = (vec![Usd::ZERO; SESSIONS], vec![Usd::ZERO; SESSIONS]);
        let mut today = 1_i8;
        for (who, step) in steps {
            let member = &members[who];
            let more = match step {
                Step::Begin(more) | Step::Grow(more) if matches!(step, Step::Begin(_)) || under_way[who] > Usd::ZERO => Usd::from_pico(more * UNIT),
                Step::Begin(_) | Step::Grow(_) => continue,
                Step::Tomorrow => {
                    today = (today + 1).min(28);
                    continue;
                }
                Step::Settle(percent) => {
                    *spent[who].entry(day(today)).or_default() += Usd::from_pico(under_way[who].pico() / 100 * percent);
                    (under_way[who], held[who]) = (Usd::ZERO, Usd::ZERO);
                    Usd::ZERO
                }
                // Whoever clears up books what it held.
                Step::Crash => {
                    *spent[who].entry(day(today)).or_default() += held[who];
                    (under_way[who], held[who]) = (Usd::ZERO, Usd::ZERO);
                    Usd::ZERO
                }
            };
            if more > Usd::ZERO && under_way[who] + more > held[who] {
                match ledger.grant(member, &limits, day(today), need(under_way[who] + more)) {
                    Ok(granted) => {
                        prop_assert!(granted >= under_way[who] + more);
                        held[who] = granted;
                    }
                    Err(lack) => {
                        // What others took ahead of their need is at most a tenth of what there was.
                        let needed: Usd = under_way.iter().copied().sum::<Usd>() + more;
                        let all = ledger.spent(member, lack.limit.share, day(today)) + needed;
                        prop_assert!(all.pico() > lack.limit.amount.pico() / 5 * 4, "{all} of {}", lack.limit.amount);
                        continue;
                    }
                }
            }
            under_way[who] += more;
            let today_spent = spent[who].get(&day(today)).copied().unwrap_or_default();
            let line = Entry::At { session: member.session, day: day(today), spent: today_spent, held: held[who] };
            // Written twice, it says the same.
            lines.extend([line.clone(), line.clone()]);
            ledger.apply(line).unwrap();
            for (member, limit) in members.iter().flat_map(|member| limits.iter().map(move |limit| (member, limit))) {
                let same = |other: &&Member| other.name(limit.share.scope) == member.name(limit.share.scope);
                let index = |other: &Member| members.iter().position(|known| known == other).unwrap();
                let of_period = |n: usize| match limit.share.period {
                    Period::Day => spent[n].get(&day(today)).copied().unwrap_or_default(),
                    Period::Month => spent[n].values().copied().sum(),
                };
                let sharing: Vec<usize> = members.iter().filter(same).map(index).collect();
                let sum: Usd = sharing.iter().map(|n| of_period(*n)).sum();
                prop_assert_eq!(ledger.spent(member, limit.share, day(today)), sum);
                let holds: Usd = sharing.iter().map(|n| held[*n]).sum();
                prop_assert!(sum + holds <= limit.amount, "{sum} spent, {holds} held of {limit}");
            }
        }
        prop_assert!(ledger.lines().len() <= lines.len());
        let (again, fewer) = (fold(lines), fold(ledger.lines()));
        for member in &members {
            for limit in &limits {
                prop_assert_eq!(again.spent(member, limit.share, day(today)), ledger.spent(member, limit.share, day(today)));
                prop_assert_eq!(fewer.spent(member, limit.share, day(today)), ledger.spent(member, limit.share, day(today)));
            }
        }
        let held = |ledger: &Ledger| ledger.holders().into_iter().collect::<BTreeMap<_, _>>();
        prop_assert_eq!(held(&fewer), held(&ledger));
    }
}
