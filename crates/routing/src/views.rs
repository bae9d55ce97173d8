//! The candidates as a pick of `prefix_aware` sees them: their loads, read once, replicas side by side, so that
//! the arithmetic on them runs by vectors. No replica's load is read twice in a pick, so that its parts agree.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{candidates::Candidates, coefficients::Slowness, prefix_index::Matches};

/// Replicas in a group.
const LANES: usize = 16;

/// One candidate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    pub(crate) requests: f64,
    /// `q / n`.
    pub(crate) waiting_share: f64,
    pub(crate) waiting_tokens: f64,
    pub(crate) context_tokens: f64,
    pub(crate) outstanding_s: f64,
    /// Prompt tokens that its cache is expected to hold.
    pub(crate) cached: f64,
    /// How much longer it takes than the mean, by speed and weight.
    pub(crate) burden: f64,
    /// That part of it which outstanding work does not contain.
    pub(crate) by_weight: f64,
    /// `1 / burden`.
    pub(crate) speed: f64,
}

/// All of them, in the order of the candidates.
#[derive(Debug)]
pub(crate) struct Views {
    groups: Vec<Group>,
    count: usize,
}

/// Some of them, a column a quantity. Places without a candidate hold what changes no sum and no extreme.
#[derive(Clone, Copy, Debug)]
struct Group {
    requests: [f64; LANES],
    waiting_share: [f64; LANES],
    waiting_tokens: [f64; LANES],
    context_tokens: [f64; LANES],
    outstanding_s: [f64; LANES],
    cached: [f64; LANES],
    burden: [f64; LANES],
    by_weight: [f64; LANES],
    speed: [f64; LANES],
}

/// What turns the counters of replicas into views.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) mean_weight: f64,
    /// See [`Slowness::shared`].
    pub(crate) shared_slowness: f64,
    /// Blocks that all replicas count as holding, and tokens of a block.
    pub(crate) common_blocks: u32,
    pub(crate) block_tokens: u32,
    pub(crate) prompt_tokens: u32,
}

/// Sums over the views, and the extremes of what is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) speed: f64,
    pub(crate) requests: f64,
    pub(crate) outstanding_s: f64,
    pub(crate) least_cached: f64,
    pub(crate) most_cached: f64,
}

/// An even load, as far as one balancer can tell: sums, and the mean share that waits.
#[derive(Clone, Copy, Debug)]
struct Even {
    speed: f64,
    requests: f64,
    waiting_share: f64,
    waiting_tokens: f64,
    context_tokens: f64,
    outstanding_s: f64,
}

impl Views {
    /// Reads the loads of all candidates.
    pub(crate) fn read(candidates: &Candidates<'_>, matches: &Matches, scale: Scale) -> Self {
        let count = candidates.list.len();
        let mut groups = vec![Group::EMPTY; count.div_ceil(LANES)];
        for (group, candidates_of_group) in groups.iter_mut().zip(candidates.list.chunks(LANES)) {
            for (lane, candidate) in candidates_of_group.iter().enumerate() {
                let standing = candidates.standing(candidate);
                let load = &*standing.load;
                group.requests[lane] = number(&load.requests);
                group.waiting_share[lane] = number(&load.waiting);
                group.waiting_tokens[lane] = number(&load.waiting_tokens);
                group.context_tokens[lane] = number(&load.context_tokens);
                group.outstanding_s[lane] = number(&load.outstanding);
                group.cached[lane] = matches.blocks[standing.slot as usize].into();
                group.burden[lane] = load.slowness.logarithm();
                group.by_weight[lane] = candidate.weight;
            }
            group.scale(scale);
            group.clear_from(candidates_of_group.len());
        }
        Self { groups, count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn at(&self, index: usize) -> View {
        self.groups[index / LANES].view(index % LANES)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = View> {
        (0..self.count).map(|index| self.at(index))
    }

    pub(crate) fn totals(&self) -> Totals {
        let sum = |column: fn(&Group) -> &[f64; LANES]| self.column(column, 0.0, |all, value| all + value);
        Totals {
            speed: sum(|group| &group.speed),
            requests: sum(|group| &group.requests),
            outstanding_s: sum(|group| &group.outstanding_s),
            least_cached: self.column(|group| &group.cached, f64::INFINITY, least),
            most_cached: self.column(|group| &group.cached, 0.0, most),
        }
    }

    /// Folds a column lane by lane, and then the lanes.
    fn column(&self, column: fn(&Group) -> &[f64; LANES], start: f64, fold: impl Fn(f64, f64) -> f64) -> f64 {
        let mut lanes = [start; LANES];
        for group in &self.groups {
            lanes.iter_mut().zip(column(group)).for_each(|(lane, value)| *lane = fold(*lane, *value));
        }
        lanes.into_iter().fold(start, fold)
    }

    /// What `value` makes of each view.
    pub(crate) fn map(&self, value: impl Fn(View) -> f64) -> Vec<f64> {
        let mut values = vec![[0.0; LANES]; self.groups.len()];
        for (values, group) in values.iter_mut().zip(&self.groups) {
            for (lane, result) in values.iter_mut().enumerate() {
                *result = value(group.view(lane));
            }
        }
        let mut values = values.into_flattened();
        values.truncate(self.count);
        values
    }

    /// Draws loads towards even ones, keeping the share `trust(mean)` of their differences.
    pub(crate) fn approach(&mut self, trust: impl Fn(f64) -> Option<f64>) {
        let even = self.even();
        let Some(trust) = trust(even.requests / self.count as f64) else { return };
        for group in &mut self.groups {
            for lane in 0..LANES {
                let mut view = group.view(lane);
                view.approach(&even, trust);
                group.set(lane, view);
            }
        }
    }

    fn even(&self) -> Even {
        let sum = |value: fn(View) -> f64| self.iter().map(value).sum::<f64>();
        let requests = sum(|view| view.requests);
        Even {
            speed: sum(|view| view.speed),
            requests,
            waiting_share: sum(|view| view.waiting_share * view.requests) / requests.max(1.0),
            waiting_tokens: sum(|view| view.waiting_tokens),
            context_tokens: sum(|view| view.context_tokens),
            outstanding_s: sum(|view| view.outstanding_s),
        }
    }
}

impl Group {
    const EMPTY: Self = Self {
        requests: [0.0; LANES],
        waiting_share: [0.0; LANES],
        waiting_tokens: [0.0; LANES],
        context_tokens: [0.0; LANES],
        outstanding_s: [0.0; LANES],
        cached: [0.0; LANES],
        burden: [0.0; LANES],
        by_weight: [0.0; LANES],
        speed: [0.0; LANES],
    };

    /// Makes views of what was read: counters, matched blocks, logarithms of slowness and weights.
    #[inline]
    fn scale(&mut self, scale: Scale) {
        let Self { requests, waiting_share, outstanding_s, cached, burden, by_weight, speed, .. } = self;
        let [common, block, prompt] =
            [scale.common_blocks, scale.block_tokens, scale.prompt_tokens].map(f64::from);
        for lane in 0..LANES {
            waiting_share[lane] = least(waiting_share[lane] / most(requests[lane], 1.0), 1.0);
            outstanding_s[lane] *= 1e-9;
            cached[lane] = least(most(cached[lane], common) * block, prompt);
            by_weight[lane] = scale.mean_weight / by_weight[lane];
        }
        let slowest = burden.iter().map(|own| (own - scale.shared_slowness).abs()).fold(0.0, most);
        if Slowness::is_usual(slowest) {
            *burden = *by_weight;
        } else {
            for lane in 0..LANES {
                burden[lane] = Slowness::factor(burden[lane] - scale.shared_slowness) * by_weight[lane];
            }
        }
        for lane in 0..LANES {
            speed[lane] = 1.0 / burden[lane];
        }
    }

    /// There are no more candidates than `count`.
    #[inline]
    fn clear_from(&mut self, count: usize) {
        for lane in count..LANES {
            // Least and most of what is cached are those of candidates.
            self.set(lane, View { cached: self.cached[0], ..View::default() });
        }
    }

    #[inline]
    fn set(&mut self, lane: usize, view: View) {
        self.requests[lane] = view.requests;
        self.waiting_share[lane] = view.waiting_share;
        self.waiting_tokens[lane] = view.waiting_tokens;
        self.context_tokens[lane] = view.context_tokens;
        self.outstanding_s[lane] = view.outstanding_s;
        self.cached[lane] = view.cached;
        self.burden[lane] = view.burden;
        self.by_weight[lane] = view.by_weight;
        self.speed[lane] = view.speed;
    }

    #[inline]
    fn view(&self, lane: usize) -> View {
        View {
            requests: self.requests[lane],
            waiting_share: self.waiting_share[lane],
            waiting_tokens: self.waiting_tokens[lane],
            context_tokens: self.context_tokens[lane],
            outstanding_s: self.outstanding_s[lane],
            cached: self.cached[lane],
            burden: self.burden[lane],
            by_weight: self.by_weight[lane],
            speed: self.speed[lane],
        }
    }
}

impl View {
    /// Keeps the share `trust` of its differences from an even load.
    fn approach(&mut self, all: &Even, trust: f64) {
        let share = self.speed / all.speed;
        let draw = |value: &mut f64, even: f64| *value = even + (*value - even) * trust;
        draw(&mut self.requests, all.requests * share);
        draw(&mut self.waiting_share, all.waiting_share);
        draw(&mut self.waiting_tokens, all.waiting_tokens * share);
        draw(&mut self.context_tokens, all.context_tokens * share);
        draw(&mut self.outstanding_s, all.outstanding_s * share);
    }
}

/// A counter that is no more than 2^63, which takes one instruction where any number takes six.
fn number(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed).cast_signed() as f64
}

/// The lowest of any values; infinite if there are none.
pub(crate) fn lowest(values: &[f64]) -> f64 {
    let mut lanes = [f64::INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane = least(*lane, *value));
    }
    rest.iter().chain(&lanes).copied().fold(f64::INFINITY, least)
}

/// `f64::min` without its care for what is not a number, in one instruction.
fn least(left: f64, right: f64) -> f64 {
    if right < left { right } else { left }
}

fn most(left: f64, right: f64) -> f64 {
    if right > left { right } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(count: u32) -> Views {
        let view = |place: u32| View {
            requests: f64::from(place),
            outstanding_s: 2.0 * f64::from(place),
            cached: f64::from(100 + place * 7 % 5),
            speed: 1.0,
            ..View::default()
        };
        let places: Vec<u32> = (0..count).collect();
        let group = |places: &[u32]| {
            let mut group = Group::EMPTY;
            places.iter().enumerate().for_each(|(lane, place)| group.set(lane, view(*place)));
            group.clear_from(places.len());
            group
        };
        Views { groups: places.chunks(LANES).map(group).collect(), count: count as usize }
    }

    #[test]
    fn counters_become_seconds_shares_and_tokens() {
        let scale = Scale {
            mean_weight: 3.0,
            shared_slowness: 0.5,
            common_blocks: 2,
            block_tokens: 16,
            prompt_tokens: 100,
        };
        let read = |requests, waiting, blocks, logarithm, weight| {
            let mut group = Group::EMPTY;
            let counters = View { requests, waiting_share: waiting, outstanding_s: 2e9, ..View::default() };
            group.set(3, View { cached: blocks, burden: logarithm, by_weight: weight, ..counters });
            group.scale(scale);
            group.view(3)
        };
        let usual = read(4.0, 3.0, 5.0, 0.55, 3.0);
        assert_eq!((usual.waiting_share, usual.outstanding_s, usual.cached), (0.75, 2.0, 80.0));
        assert_eq!((usual.burden, usual.by_weight, usual.speed), (1.0, 1.0, 1.0));
        let slow = read(0.0, 0.0, 1.0, 1.5, 6.0);
        assert_eq!((slow.waiting_share, slow.cached, slow.by_weight), (0.0, 32.0, 0.5));
        assert!(
            (slow.burden - 0.5 * 1_f64.exp()).abs() < 1e-9 && (slow.burden * slow.speed - 1.0).abs() < 1e-9
        );
        assert_eq!(read(2.0, 9.0, 9.0, 0.5, 3.0).waiting_share, 1.0, "read while a lease is opened");
        assert_eq!(read(2.0, 9.0, 9.0, 0.5, 3.0).cached, 100.0);
    }

    #[test]
    fn sums_and_extremes_are_those_of_the_candidates_alone() {
        for count in [1, 7, 8, 9, 64] {
            let views = views(count);
            let all = views.totals();
            let requests = f64::from(count * (count - 1) / 2);
            assert_eq!((all.speed, all.requests), (f64::from(count), requests), "{count}");
            assert_eq!(all.outstanding_s, 2.0 * requests);
            let cached = || views.iter().map(|view| view.cached);
            assert_eq!(
                all.least_cached,
                cached().fold(f64::INFINITY, |a, b| if b < a { b } else { a }),
                "{count}"
            );
            assert_eq!(all.most_cached, cached().fold(0.0, f64::max), "{count}");
            assert_eq!((views.count(), views.iter().count()), (count as usize, count as usize));
        }
    }

    #[test]
    fn the_lowest_is_found_wherever_it_is() {
        for count in [1, 15, 16, 17, 40] {
            for place in 0..count {
                let values: Vec<f64> =
                    (0..count).map(|at| if at == place { -1.0 } else { at as f64 }).collect();
                assert_eq!(lowest(&values), -1.0, "{place} of {count}");
            }
        }
        assert_eq!((lowest(&[]), lowest(&[f64::INFINITY])), (f64::INFINITY, f64::INFINITY));
    }

    #[test]
    fn each_view_is_mapped_at_its_own_place() {
        let doubled = views(19).map(|view| view.requests * 2.0);
        for (index, view) in views(19).iter().enumerate() {
            assert_eq!(doubled[index], view.requests * 2.0);
        }
    }

    #[test]
    fn loads_are_drawn_towards_the_mean() {
        let mut drawn = views(9);
        drawn.approach(|mean| (mean == 4.0).then_some(0.5));
        let requests: Vec<f64> = drawn.iter().map(|view| view.requests).collect();
        assert_eq!(requests, [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]);
        assert_eq!(drawn.totals().requests, 36.0);
    }
}
