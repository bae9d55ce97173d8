//! Nelder and Mead's method: the least value of a function of a few numbers, without derivatives.
//!
//! A simplex of one point more than there are numbers is moved, stretched and shrunk towards lower values, with the
//! coefficients that Gao and Han (2012) give for its dimension. A value that is not a number counts as the highest.

use std::cell::Cell;

/// Below this difference of values the simplex has collapsed.
const FLAT: f64 = 1e-9;

/// Searches from `start` with steps of `step`, and stops after about `evaluations` values. Returns the least value
/// and where it is.
pub(super) fn minimise(
    start: &[f64],
    step: f64,
    evaluations: usize,
    mut value: impl FnMut(&[f64]) -> f64,
) -> (f64, Vec<f64>) {
    let count = start.len();
    let dimension = count as f64;
    let (stretch, contract, shrink) =
        (1.0 + 2.0 / dimension, 0.75 - 0.5 / dimension, 1.0 - 1.0 / dimension.max(2.0));
    let spent = Cell::new(0);
    let mut at = |point: Vec<f64>| {
        spent.set(spent.get() + 1);
        let value = value(&point);
        (if value.is_nan() { f64::INFINITY } else { value }, point)
    };
    let mut simplex = vec![at(start.to_vec())];
    for place in 0..count {
        let mut corner = start.to_vec();
        corner[place] += step;
        simplex.push(at(corner));
    }
    loop {
        simplex.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (best, worst) = (simplex[0].0, simplex[count].clone());
        if spent.get() >= evaluations || worst.0 - best < FLAT * (1.0 + best.abs()) {
            return simplex.swap_remove(0);
        }
        let next_worst = simplex[count - 1].0;
        let centre: Vec<f64> = (0..count)
            .map(|place| simplex[..count].iter().map(|(_, point)| point[place]).sum::<f64>() / dimension)
            .collect();
        let along = |distance: f64| -> Vec<f64> {
            centre.iter().zip(&worst.1).map(|(centre, worst)| centre + distance * (centre - worst)).collect()
        };
        let reflected = at(along(1.0));
        if reflected.0 < best {
            let stretched = at(along(stretch));
            simplex[count] = if stretched.0 < reflected.0 { stretched } else { reflected };
        } else if reflected.0 < next_worst {
            simplex[count] = reflected;
        } else {
            let contracted = at(along(if reflected.0 < worst.0 { contract } else { -contract }));
            if contracted.0 < worst.0.min(reflected.0) {
                simplex[count] = contracted;
            } else {
                let best = simplex[0].1.clone();
                for corner in &mut simplex[1..] {
                    let nearer =
                        best.iter().zip(&corner.1).map(|(best, number)| best + shrink * (number - best));
                    *corner = at(nearer.collect());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let valley = |point: &[f64]| {
            let (x, y) = (point[0], point[1]);
            (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2)
        };
        let (least, point) = minimise(&[-1.2, 1.0], 0.5, 500, valley);
        assert!(least < 1e-6 && (point[0] - 1.0).abs() < 1e-2 && (point[1] - 1.0).abs() < 1e-2, "{point:?}");
    }

    #[test]
    fn what_is_no_number_is_avoided_and_the_search_ends() {
        let mut values = 0;
        let (least, point) = minimise(&[3.0, 3.0, 3.0, 3.0], 1.0, 400, |point| {
            values += 1;
            if point[0] < 0.5 { f64::NAN } else { point.iter().map(|number| number * number).sum() }
        });
        assert!((least - 0.25).abs() < 0.05 && point[0] >= 0.5, "{least} at {point:?}");
        assert!(values < 420, "{values}");
    }
}
