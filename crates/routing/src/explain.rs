//! A decision laid open: what every replica would have cost, and why those that were no candidates were none.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rand::Rng;

use crate::{
    Considered, Cost, Exclusion, Explanation, HealthSettings, Query, Replica, Router, health::Availability,
    snapshot::Call,
};

impl Router {
    /// Lays a decision open without taking it.
    pub fn explain(&self, query: &Query<'_>, now: Duration, random: &mut dyn Rng) -> Explanation {
        let snapshot = self.snapshot.load();
        let settings = self.rules.settings.load();
        let found = snapshot.candidates(query, now);
        let engine = snapshot.engine();
        let expected = snapshot.expected(query);
        let call = Call { query, engine: &engine, expected, now };
        let mut costs: HashMap<usize, Cost> = HashMap::new();
        let choice = found.as_ref().map(|found| {
            let mut see = |index, cost| {
                costs.insert(index, cost);
            };
            (found, snapshot.choose(found, call, random, false, Some(&mut see)))
        });
        let (chosen, reason) = match &choice {
            Ok((found, choice)) => {
                let name = &found.standing(&found.list[choice.index]).replica.spec.name;
                (Some(Arc::clone(name)), choice.reason.label())
            }
            Err(none) => (None, none.label()),
        };
        let candidates = (0..)
            .zip(snapshot.replicas.iter())
            .map(|(place, replica)| {
                let index = found.as_ref().ok().and_then(|found| found.at(place));
                let ramp = replica.health.ramp(now, settings.slow_start);
                Considered {
                    name: Arc::clone(&replica.spec.name),
                    excluded: match index {
                        Some(_) => None,
                        None => Some(exclusion(replica, query, &settings, now)),
                    },
                    cost: index.and_then(|index| costs.get(&index).copied()),
                    weight: f64::from(replica.spec.weight.max(1)) * ramp,
                    health: replica.health.state(now),
                    load: replica.load.snapshot(),
                }
            })
            .collect();
        Explanation { policy: snapshot.policy.name(), candidates, chosen, reason }
    }
}

fn exclusion(replica: &Replica, query: &Query<'_>, settings: &HealthSettings, now: Duration) -> Exclusion {
    if query.tried.contains(&replica.id) {
        Exclusion::Tried
    } else if !query.admits(replica) {
        Exclusion::NoAdapter
    } else {
        match replica.health.availability(now, settings) {
            Availability::Untried | Availability::Never => Exclusion::NotHealthy,
            _ => Exclusion::Avoided,
        }
    }
}
