use super::*;
use crate::dtype::{Float, Overflow};
use crate::format::codec::{Plain, Sides};
use crate::simd::Written;

const LEN: usize = CELL + 5 * BLOCK + 77;

fn operand(seed: u64, spread: f32) -> Vec<f32> {
    let value = |i: u64| {
        let hash = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (hash as f32 / 8_388_608.0 - 1.0) * spread
    };
    (0..LEN as u64).map(value).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// What `exec` does: cell by cell, the cells added in order.
fn stats(isa: &Isa, operands: &[&[f32]], written: &[f32]) -> UnitStats {
    let mut unit = UnitStats::new(operands.len());
    for start in (0..LEN).step_by(CELL) {
        let mut cell = UnitStats::new(operands.len());
        for start in (start..LEN.min(start + CELL)).step_by(BLOCK) {
            let range = start..LEN.min(start + BLOCK);
            let blocks: Vec<_> = operands.iter().map(|x| &x[range.clone()]).collect();
            let (values, bytes) = (&written[range.clone()], bytes(&written[range]));
            let made = Made {
                operands: &blocks,
                added: &[],
                values,
                to: &Plain(Float::F32),
                run: run(&bytes),
            };
            cell.add_block(isa, made);
        }
        unit.merge_next(&cell);
    }
    unit
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
    a.iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite()).map(product).sum()
}

/// Plain elements.
fn run(bytes: &[u8]) -> Run<'_> {
    Run { first: 0, bytes, sides: Sides::default() }
}

fn near(got: f64, want: f64, scale: f64) {
    assert!((got - want).abs() <= 1e-6 * scale, "{got} {want}");
}

#[test]
fn sums_are_those_of_f64_on_every_isa() {
    let (a, b) = (operand(1, 0.05), operand(2, 0.05));
    let delta: Vec<f32> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    let want = stats(Isa::best(), &[&a, &b], &b);
    for isa in Isa::available() {
        let got = stats(isa, &[&a, &b], &b);
        assert_eq!(got, want, "{}", isa.name());
    }
    assert_eq!((want.elements, want.nonfinite_out), (LEN as u64, 0));
    assert_eq!(want.nonfinite, [0, 0]);
    let scale = dot(&a, &a);
    near(want.norm2[0], dot(&a, &a), scale);
    near(want.norm2[1], dot(&b, &b), scale);
    near(want.dot[1], dot(&a, &b), scale);
    near(want.delta2[1], dot(&delta, &delta), scale);
    assert_eq!((want.dot[0].to_bits(), want.delta2[0]), (want.norm2[0].to_bits(), 0.0));
}

#[test]
fn zero_is_what_holds_nothing_but_zeros_however_small_its_norm() {
    let nothing: Vec<f32> = (0..LEN).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
    let tiny = |at: usize| {
        let mut x = nothing.clone();
        x[at] = -1e-30;
        x
    };
    let mut bad = nothing.clone();
    bad[LEN - 1] = f32::NAN;
    for isa in Isa::available() {
        let of = |x: &[f32]| {
            let found = stats(isa, &[&nothing, x], &nothing);
            (found.zero[0], found.zero[1], found.norm2[1])
        };
        assert_eq!(of(&nothing), (true, true, 0.0), "{}", isa.name());
        for at in [0, BLOCK - 1, BLOCK, LEN - 1] {
            assert_eq!(of(&tiny(at)), (true, false, 0.0), "{} {at}", isa.name());
        }
        assert_eq!(of(&bad), (true, false, 0.0), "{}", isa.name());
        let first = stats(isa, &[&tiny(7), &nothing], &nothing);
        assert_eq!(first.zero, [false, true], "{}", isa.name());
    }
    let mut unit = stats(Isa::best(), &[&nothing], &nothing);
    unit.merge_next(&stats(Isa::best(), &[&tiny(3)], &nothing));
    assert_eq!(unit.zero, [false]);
}

#[test]
fn huge_values_do_not_overflow_and_non_finite_ones_are_counted_and_left_out() {
    let (mut a, mut b) = (operand(1, 3e38), operand(2, 0.05));
    (a[7], a[BLOCK], a[LEN - 1]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    b[8] = f32::NAN;
    for isa in Isa::available() {
        let got = stats(isa, &[&a, &b], &a);
        assert_eq!(got.nonfinite, [3, 1], "{}", isa.name());
        assert_eq!((got.nonfinite_out, got.changed), (3, 0), "{}", isa.name());
        near(got.norm2[0], dot(&a, &a), dot(&a, &a));
        near(got.norm2[1], dot(&b, &b), dot(&b, &b));
        // Beside values of 1e38 those of b vanish; a[8] has no partner.
        let delta2 = dot(&a, &a) - f64::from(a[8]).powi(2);
        near(got.delta2[1], delta2, delta2);
        assert!((got.dot[1] - dot(&a, &b)).abs() < 1e-6 * (dot(&a, &a) * dot(&b, &b)).sqrt());
    }
}

#[test]
fn changed_is_by_bits_but_for_nans() {
    let a = [0.0, 0.0, f32::NAN, f32::NAN, 1.0, f32::INFINITY];
    let b = [0.0, -0.0, -f32::NAN, 1.0, 1.0, f32::NEG_INFINITY];
    for isa in Isa::available() {
        let written = |x: &[f32], y: &[f32]| {
            let Written { changed, nonfinite, .. } = isa.written(Float::F32, &bytes(x), y);
            (changed, nonfinite)
        };
        assert_eq!(written(&a, &b), (3, 3), "{}", isa.name());
        assert_eq!(written(&b, &a), (3, 2), "{}", isa.name());
        assert_eq!(isa.count_nonfinite(&a), 3, "{}", isa.name());
    }
}

#[test]
fn tiny_deltas_of_large_operands_survive() {
    let a = [1024.0_f32; BLOCK];
    let b = a.map(f32::next_up);
    let mut stats = UnitStats::new(2);
    let (operands, to) = ([&a[..], &b[..]], &Plain(Float::F32));
    stats.add_block(
        Isa::best(),
        Made { operands: &operands, added: &[], values: &b, to, run: run(&bytes(&b)) },
    );
    let ulp = f64::from(1024.0_f32.next_up()) - 1024.0;
    assert_eq!(stats.delta2[1].to_bits(), (ulp * ulp * BLOCK as f64).to_bits());
}

/// A unit made from `a` and `b` by rounding `values`, in one piece.
fn made_of(a: &[f32], b: &[f32], values: &[f32], to: Float, overflow: Overflow) -> UnitStats {
    let isa = Isa::best();
    let mut bytes = vec![0; values.len() * to.bytes()];
    isa.encode(to, overflow, values, &mut bytes);
    let mut stats = UnitStats::new(2);
    stats
        .add(isa, Made { operands: &[a, b], added: &[], values, to: &Plain(to), run: run(&bytes) });
    stats
}

#[test]
fn overflow_is_counted_and_located_in_every_dtype() {
    for (to, overflow) in Float::ALL
        .iter()
        .flat_map(|to| [Overflow::Saturate, Overflow::Nan].map(|overflow| (*to, overflow)))
    {
        let mut values = vec![to.largest(); BLOCK + 9];
        let mut a = vec![1.0; BLOCK + 9];
        (values[5], values[BLOCK + 2], values[BLOCK + 3]) =
            (f32::INFINITY, -to.overflow(), to.overflow().next_down());
        a[5] = f32::INFINITY; // not an overflow: it was there before
        let got = made_of(&a, &vec![1.0; BLOCK + 9], &values, to, overflow);
        assert_eq!(got.overflowed, 1, "{to:?} {overflow:?}");
        assert_eq!(got.first_overflowed, Some(BLOCK as u64 + 2), "{to:?} {overflow:?}");
        assert_eq!((got.first_nonfinite[0], got.first_nonfinite[1]), (Some(5), None));
    }
}

#[test]
fn energies_are_those_of_the_sampled_blocks() {
    let (a, b) = (operand(1, 0.05), operand(2, 0.05));
    let values: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * 0.3 + b * 0.7).collect();
    let got = made_of(&a, &b, &values, Float::BF16, Overflow::Nan);
    let sampled = |i: &usize| (i / BLOCK).is_multiple_of(SAMPLE);
    let square = |x: f32, y: f32| (f64::from(x) - f64::from(y)).powi(2);
    let round = |x: f32| Float::BF16.decode(Float::BF16.encode(Overflow::Nan, x));
    let rounding2: f64 =
        (0..LEN).filter(sampled).map(|i| square(round(values[i]), values[i])).sum();
    let change2: f64 = (0..LEN).filter(sampled).map(|i| square(values[i], a[i])).sum();
    near(got.rounding2, rounding2, rounding2);
    let energy: f64 = (0..LEN).filter(sampled).map(|i| square(values[i], 0.0)).sum();
    near(got.value2, energy, energy);
    near(got.change2, change2, change2);
    assert_eq!(got.sampled as usize, (0..LEN).filter(sampled).count());
}

#[test]
fn a_result_is_equal_to_the_operands_whose_values_it_has() {
    let (a, b) = (operand(1, 0.05), operand(2, 0.05));
    let mut nearly = b.clone();
    nearly[LEN - 1] = 1.0;
    for (values, equal) in [(&a, [true, false]), (&b, [false, true]), (&nearly, [false; 2])] {
        let got = made_of(&a, &b, values, Float::F32, Overflow::Nan);
        assert_eq!(got.equal, equal);
    }
    assert_eq!(made_of(&a, &a, &a, Float::F32, Overflow::Nan).equal, [true; 2]);
}

#[test]
fn an_analysis_needs_a_finite_alpha_and_two_models() {
    let what = Analyze { alpha: f64::NAN }.check(2).expect_err("a refusal");
    assert_eq!(what, "alpha NaN, expected a finite number");
    let what = Analyze { alpha: 0.5 }.check(4).expect_err("a refusal");
    assert_eq!(what, "4 operands, expected 2 or 3");
}
