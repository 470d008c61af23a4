//! What was seen of one address, and what follows from it.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::EVERY;
use super::event::{Announced, Answer, Event, Outcome, Request};
use super::frames::Mac;
use super::moment::{Millis, Moment, Span};

/// A time without a good answer that is shorter is none: answers come [`EVERY`], and a busy machine is late.
const NOTICEABLE: Duration = Duration::from_millis(30);

/// How many failed requests are told one by one.
const TOLD: usize = 8;

/// Who does not answer for this long has let go of the address.
const LET_GO: Duration = Duration::from_millis(100);

/// All that an observer has told.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    requests: Vec<Request>,
    answers: Vec<Answer>,
    announced: Vec<Announced>,
    /// Whose cards are known.
    names: BTreeMap<Mac, String>,
}

/// Who answered for an address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its card.
    pub mac: Mac,
    /// Its name; the card's address if it is nobody known.
    pub name: String,
    /// From the first request that it answered to the last.
    pub span: Span,
}

/// What became of a client's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Answered with 200.
    pub good: usize,
    /// Of those and the others, how many had to connect twice.
    pub retried: usize,
    /// Never connected, also at the second attempt.
    pub unconnected: usize,
    /// Connected, and not answered.
    pub unanswered: usize,
    /// Answered with another status.
    pub refused: usize,
}

impl Requests {
    /// How many failed for a client that tries once more to connect.
    pub fn failed(&self) -> usize {
        self.unconnected + self.unanswered + self.refused
    }

    fn add(&mut self, request: &Request) {
        self.retried += usize::from(request.retried);
        match request.outcome {
            Outcome::Answered(200) => self.good += 1,
            Outcome::Answered(_) => self.refused += 1,
            Outcome::Unconnected => self.unconnected += 1,
            Outcome::Unanswered => self.unanswered += 1,
        }
    }
}

/// What was seen of an address in some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The address.
    pub vip: Ipv4Addr,
    /// The time.
    pub time: Span,
    /// The longest time between two good answers. Without any outage it is the time between two requests, about 10 ms.
    pub outage: Duration,
    /// The times between two good answers, each of them, in order.
    gaps: Vec<Span>,
    /// Every time without a good answer that can be noticed, in order.
    pub outages: Vec<Span>,
    /// Who answered for it, in the order of their beginnings.
    pub owners: Vec<Owner>,
    /// When several answered the same requests: from the first such request to the end of the last one's turn. Where it
    /// is shorter than [`EVERY`] it is told as that.
    pub two_owners: Vec<Span>,
    /// What became of requests that began in this time.
    pub requests: Requests,
    /// Those of them that failed, in the order in which they began.
    pub failures: Vec<Request>,
    /// How often it was announced to everybody.
    pub announced: usize,
}

impl Observation {
    /// Nothing yet; cards get these names.
    pub fn new(names: BTreeMap<Mac, String>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Adds what was told next.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.requests.push(request),
            Event::Answer(answer) => self.answers.push(answer),
            Event::Announced(announced) => self.announced.push(announced),
            Event::Began { .. } | Event::Ended => {}
        }
    }

    /// What was seen of `vip` in `time`.
    pub fn of(&self, vip: Ipv4Addr, time: Span) -> Sight {
        let within = |at: Moment| time.from <= at && at <= time.to;
        let requests = self.requests.iter().filter(|request| request.vip == vip);
        let begun = requests.clone().filter(|request| within(request.started));
        let mut tally = Requests::default();
        begun.clone().for_each(|request| tally.add(request));
        let mut failures: Vec<Request> = begun.filter(|request| !request.is_good()).cloned().collect();
        failures.sort_by_key(|request| request.started);
        let good: Vec<Moment> = requests
            .filter(|request| request.is_good() && within(request.ended))
            .map(|request| request.ended)
            .collect();
        let gaps = gaps(good, time);
        let mut answers: Vec<&Answer> = self
            .answers
            .iter()
            .filter(|answer| answer.vip == vip && within(answer.asked))
            .collect();
        answers.sort_by_key(|answer| (answer.asked, answer.at));
        let announced = self.announced.iter();
        Sight {
            vip,
            time,
            outage: gaps.iter().map(|gap| gap.length()).max().unwrap_or_default(),
            outages: gaps
                .iter()
                .filter(|gap| gap.length() > NOTICEABLE)
                .copied()
                .collect(),
            gaps,
            owners: self.owners(&answers),
            two_owners: two_owners(&answers),
            requests: tally,
            failures,
            announced: announced.filter(|a| a.vip == vip && within(a.at)).count(),
        }
    }

    fn owners(&self, answers: &[&Answer]) -> Vec<Owner> {
        let mut owners: Vec<Owner> = Vec::new();
        for answer in answers {
            let known = owners
                .iter_mut()
                .rfind(|owner| owner.mac == answer.mac && answer.asked.since(owner.span.to) < LET_GO);
            match known {
                Some(owner) => owner.span.to = answer.asked,
                None => owners.push(Owner {
                    mac: answer.mac,
                    name: self.name(answer.mac),
                    span: Span {
                        from: answer.asked,
                        to: answer.asked,
                    },
                }),
            }
        }
        owners
    }

    fn name(&self, mac: Mac) -> String {
        self.names.get(&mac).cloned().unwrap_or_else(|| mac.to_string())
    }
}

/// The times between these moments, from the beginning of `time` to its end.
fn gaps(mut moments: Vec<Moment>, time: Span) -> Vec<Span> {
    moments.extend([time.from, time.to]);
    moments.sort_unstable();
    let pairs = moments.iter().zip(moments.iter().skip(1));
    pairs.map(|(from, to)| Span { from: *from, to: *to }).collect()
}

/// Requests that were answered by several; those that follow each other soon, as one time.
fn two_owners(answers: &[&Answer]) -> Vec<Span> {
    let mut times: Vec<Span> = Vec::new();
    for pair in answers.windows(2) {
        let [first, second] = pair else { continue };
        if first.asked != second.asked || first.mac == second.mac {
            continue;
        }
        let to = first.asked + EVERY;
        match times.last_mut() {
            Some(last) if first.asked.since(last.to) < LET_GO => last.to = to,
            _ => times.push(Span {
                from: first.asked,
                to,
            }),
        }
    }
    times
}

impl Sight {
    /// The longest time in which several answered the same requests.
    pub fn longest_two_owners(&self) -> Duration {
        let lengths = self.two_owners.iter().map(|span| span.length());
        lengths.max().unwrap_or_default()
    }

    /// The longest time without a good answer in which the address went from one host to another, if it did: of those that
    /// touch the time from the last answer of the one to the first of the other.
    pub fn outage_of_move(&self) -> Option<Duration> {
        let moves = self.owners.windows(2).filter_map(|pair| {
            let [from, to] = pair else { return None };
            // A busy host that is late for a while is its own successor.
            (from.mac != to.mac).then_some((from.span.to.min(to.span.from), to.span.from.max(from.span.to)))
        });
        let touching = moves.flat_map(|(from, to)| {
            let touches = move |gap: &&Span| gap.from <= to && from <= gap.to;
            self.gaps.iter().filter(touches)
        });
        touching.map(|gap| gap.length()).max()
    }

    /// Who had it last.
    pub fn last_owner(&self) -> Option<&Owner> {
        self.owners.iter().max_by_key(|owner| owner.span.to)
    }
}

impl Display for Sight {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Requests {
            good,
            retried,
            unconnected,
            unanswered,
            refused,
        } = self.requests;
        let at = |moment: Moment| format!("{:.3}", moment.since(self.time.from).as_secs_f64());
        let told = |span: &Span| format!("{}-{} s", at(span.from), at(span.to));
        writeln!(
            f,
            "{} in {:.3} s: {good} good answers, {retried} times connected twice; failed: {unconnected} not connected, \
             {unanswered} not answered, {refused} with another status",
            self.vip,
            self.time.length().as_secs_f64(),
        )?;
        write!(f, "  longest time without a good answer {}", Millis(self.outage))?;
        for outage in &self.outages {
            write!(f, "; {}", told(outage))?;
        }
        write!(f, "\n  announced {} times; answered for by", self.announced)?;
        for owner in &self.owners {
            write!(f, " {} ({})", owner.name, told(&owner.span))?;
        }
        if !self.failures.is_empty() {
            write!(f, "\n  failed")?;
        }
        for failure in self.failures.iter().take(TOLD) {
            let span = Span {
                from: failure.started,
                to: failure.ended,
            };
            write!(f, " {:?} ({})", failure.outcome, told(&span))?;
        }
        if self.failures.len() > TOLD {
            write!(f, " and {} more", self.failures.len() - TOLD)?;
        }
        for span in &self.two_owners {
            write!(f, "\n  TWO OWNERS for {}: {}", Millis(span.length()), told(span))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 214, 3, 100);
    const N1: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const N2: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn ms(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn span(from: u64, to: u64) -> Span {
        Span {
            from: ms(from),
            to: ms(to),
        }
    }

    fn request(started: u64, took: u64, outcome: Outcome) -> Event {
        Event::Request(Request {
            vip: VIP,
            started: ms(started),
            ended: ms(started + took),
            retried: outcome != Outcome::Answered(200),
            outcome,
            mac: None,
        })
    }

    /// Answers by `mac` to the requests of `from..to`.
    fn held(seen: &mut Observation, mac: Mac, from: u64, to: u64) {
        for asked in (from..to).step_by(10) {
            let (asked, at) = (ms(asked), ms(asked) + Duration::from_micros(200));
            seen.add(Event::Answer(Answer {
                vip: VIP,
                mac,
                asked,
                at,
            }));
        }
    }

    fn named() -> Observation {
        Observation::new(BTreeMap::from([(N1, "n1".to_owned()), (N2, "n2".to_owned())]))
    }

    #[test]
    fn an_outage_is_the_time_between_two_good_answers() {
        let mut seen = named();
        for started in (0..1_000).step_by(10) {
            let outcome = match started {
                300..400 => Outcome::Unconnected,
                400..450 => Outcome::Answered(503),
                450..500 => Outcome::Unanswered,
                _ => Outcome::Answered(200),
            };
            seen.add(request(started, 2, outcome));
        }
        let sight = seen.of(VIP, span(0, 1_000));
        assert_eq!(sight.outage_of_move(), None);
        assert_eq!(sight.outages, [span(292, 502)]);
        assert_eq!(sight.outage, Duration::from_millis(210));
        assert_eq!(
            sight.requests,
            Requests {
                good: 80,
                retried: 20,
                unconnected: 10,
                unanswered: 5,
                refused: 5
            }
        );
        assert_eq!(sight.requests.failed(), 20);

        let quiet = seen.of(VIP, span(500, 900));
        assert_eq!((quiet.outage, quiet.outages), (Duration::from_millis(10), vec![]));
        let other = seen.of(Ipv4Addr::LOCALHOST, span(0, 1_000));
        assert_eq!(other.outages, [span(0, 1_000)], "what was never answered");
    }

    #[test]
    fn an_outage_reaches_to_the_end_of_what_is_looked_at() {
        let mut seen = named();
        seen.add(request(100, 0, Outcome::Answered(200)));
        let sight = seen.of(VIP, span(0, 250));
        assert_eq!(sight.outages, [span(0, 100), span(100, 250)]);
    }

    #[test]
    fn answers_that_came_late_or_by_a_slow_instance_hide_no_earlier_ones() {
        let mut seen = named();
        seen.add(request(0, 1_000, Outcome::Answered(200)));
        for started in (10..1_000).step_by(10) {
            seen.add(request(started, 2, Outcome::Answered(200)));
        }
        assert_eq!(seen.of(VIP, span(0, 1_000)).outages, []);
    }

    #[test]
    fn an_address_that_moves_has_one_owner_after_the_other() {
        let mut seen = named();
        held(&mut seen, N1, 0, 500);
        held(&mut seen, N2, 510, 800);
        held(&mut seen, N1, 900, 1_000);
        let sight = seen.of(VIP, span(0, 1_000));
        let owners: Vec<(&str, Span)> = sight
            .owners
            .iter()
            .map(|owner| (owner.name.as_str(), owner.span))
            .collect();
        assert_eq!(
            owners,
            [
                ("n1", span(0, 490)),
                ("n2", span(510, 790)),
                ("n1", span(900, 990))
            ]
        );
        assert_eq!(sight.two_owners, []);
        assert_eq!(sight.longest_two_owners(), Duration::ZERO);
        assert_eq!(sight.last_owner().unwrap().name, "n1");
    }

    #[test]
    fn the_outage_of_a_move_is_not_the_lateness_of_a_busy_machine() {
        let mut seen = named();
        held(&mut seen, N1, 0, 300);
        // A host that is late for a moment has not lost it.
        held(&mut seen, N1, 420, 500);
        held(&mut seen, N2, 530, 1_000);
        for started in (0..1_000).step_by(10) {
            let outcome = match started {
                490..540 => Outcome::Unconnected,
                700..900 => Outcome::Unanswered,
                _ => Outcome::Answered(200),
            };
            seen.add(request(started, 2, outcome));
        }
        let sight = seen.of(VIP, span(0, 1_000));
        assert_eq!(sight.outage_of_move(), Some(Duration::from_millis(60)));
        assert_eq!(sight.outage, Duration::from_millis(210));
    }

    #[test]
    fn who_answer_the_same_request_own_it_at_once() {
        let mut seen = named();
        held(&mut seen, N1, 0, 300);
        held(&mut seen, N2, 250, 500);
        held(&mut seen, N1, 400, 410);
        let sight = seen.of(VIP, span(0, 500));
        assert_eq!(sight.two_owners, [span(250, 300), span(400, 410)]);
        assert_eq!(sight.longest_two_owners(), Duration::from_millis(50));
        assert_eq!(sight.owners.len(), 3);
        assert!(
            sight
                .to_string()
                .contains("TWO OWNERS for 50.0 ms: 0.250-0.300 s")
        );

        // The same one twice is one: somebody sent its answer again.
        let mut seen = named();
        held(&mut seen, N1, 0, 300);
        held(&mut seen, N1, 0, 300);
        assert_eq!(seen.of(VIP, span(0, 300)).two_owners, []);
    }
}
