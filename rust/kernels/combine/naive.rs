//! The rules in f64 on whole vectors, step by step as their sources write them.

/// A vector of elements.
pub(super) type Vector = Vec<f64>;

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `a + factor * b`
pub(super) fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vector {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

pub(super) fn times(factor: f64, a: &[f64]) -> Vector {
    a.iter().map(|a| factor * a).collect()
}

/// `sum_i w_i x_i`
pub(super) fn sum(weights: &[f64], x: &[Vector]) -> Vector {
    let zero = vec![0.0; x[0].len()];
    weights.iter().zip(x).fold(zero, |sum, (w, x)| plus(&sum, *w, x))
}

/// What each of the others adds to the first.
pub(super) fn deltas(x: &[Vector]) -> Vec<Vector> {
    x[1..].iter().map(|x_i| plus(x_i, -1.0, &x[0])).collect()
}

pub(super) fn slerp(a: &[f64], b: &[f64], t: f64, line_above: f64) -> Vector {
    let cosine = dot(a, b) / (norm(a) * norm(b));
    if cosine.abs() > line_above {
        return plus(&times(1.0 - t, a), t, b);
    }
    let angle = cosine.acos();
    let arc = plus(&times(((1.0 - t) * angle).sin(), a), (t * angle).sin(), b);
    times(1.0 / angle.sin(), &arc)
}

/// With the step on the tangent.
pub(super) fn multislerp(x: &[Vector], weights: &[f64], eps: f64) -> Vector {
    let units: Vec<_> = x.iter().map(|x| times(1.0 / (norm(x) + eps), x)).collect();
    let mean = sum(weights, &units);
    let mean = times(1.0 / norm(&mean), &mean);
    let tangents: Vec<_> = units.iter().map(|u| plus(u, -dot(u, &mean), &mean)).collect();
    let tangent = sum(weights, &tangents);
    let length = norm(&tangent) + eps;
    let point = plus(&times(length.cos(), &mean), length.sin() / length, &tangent);
    let scale: f64 = x.iter().zip(weights).map(|(x, w)| w * norm(x)).sum();
    times(scale, &point)
}

/// The gradient of the sum of squared arcs, walked down to its end.
pub(super) fn karcher(x: &[Vector]) -> Vector {
    let share = vec![1.0 / x.len() as f64; x.len()];
    let units: Vec<_> = x.iter().map(|x| times(1.0 / norm(x), x)).collect();
    let mut point = sum(&share, &units);
    for _ in 0..200 {
        point = times(1.0 / norm(&point), &point);
        let arcs = units.iter().map(|u| {
            let cosine = dot(u, &point).clamp(-1.0, 1.0);
            let across = plus(u, -cosine, &point);
            let length = norm(&across);
            times(if length == 0.0 { 0.0 } else { length.atan2(cosine) / length }, &across)
        });
        point = plus(&point, 1.0, &sum(&share, &arcs.collect::<Vec<_>>()));
    }
    let scale: f64 = x.iter().map(|x| norm(x)).sum::<f64>() / x.len() as f64;
    times(scale / norm(&point), &point)
}

pub(super) fn model_stock(x: &[Vector]) -> Vector {
    let d = deltas(x);
    let n = d.len() as f64;
    let mut cosines = Vec::new();
    for i in 0..d.len() {
        for j in 0..i {
            cosines.push(dot(&d[i], &d[j]) / (norm(&d[i]) * norm(&d[j])));
        }
    }
    let cosine = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let t = n * cosine / (1.0 + (n - 1.0) * cosine);
    let mean = sum(&vec![1.0 / n; x.len() - 1], &x[1..]);
    plus(&times(1.0 - t, &x[0]), t, &mean)
}

pub(super) fn orthogonal(a: &[f64], b: &[f64], alpha: f64) -> Vector {
    plus(a, alpha, &plus(b, -dot(a, b) / dot(a, a), a))
}

pub(super) fn geometric_median(x: &[Vector], weights: &[f64]) -> Vector {
    let mut shares = weights.to_vec();
    for _ in 0..2_000 {
        let total: f64 = shares.iter().sum();
        let median = sum(&times(1.0 / total, &shares), x);
        let distance = |x: &Vector| norm(&plus(x, -1.0, &median)).max(1e-12);
        shares = weights.iter().zip(x).map(|(w, x)| w / distance(x)).collect();
    }
    sum(&times(1.0 / shares.iter().sum::<f64>(), &shares), x)
}

pub(super) fn norm_lerp(a: &[f64], b: &[f64], t: f64) -> Vector {
    let line = plus(&times(1.0 - t, a), t, b);
    times(((1.0 - t) * norm(a) + t * norm(b)) / norm(&line), &line)
}
