//! What an operand is made of, where bytes come from and where they go, through whole jobs in memory.
#![allow(clippy::float_cmp)] // equality is meant

mod codecs;
mod encodings;
mod ggml;
mod job;
mod scales;
mod sides;
mod sources;

use serde_json::json;

use job::{Job, Model, low_rank, rows};

/// `w + scale * (up . down)` as the design says: over the rank from 0 on, in f32, the scale last.
fn adapted(model: &Model, scale: f32) -> Vec<f32> {
    let ([w, up, down], rank) = (["w", "up", "down"].map(|name| model.values(name)), model.rank);
    let columns = model.columns;
    let value = |(at, w): (usize, &f32)| {
        let (row, column) = (at / columns, at % columns);
        let product = |k: usize| up[row * rank + k] * down[k * columns + column];
        let sum = (1..rank).fold(product(0), |sum, k| sum + product(k));
        w + sum * scale
    };
    w.iter().enumerate().map(value).collect()
}

#[test]
fn rows_and_a_product_are_one_operand_whatever_the_threads_and_chunks() {
    for (height, columns, rank) in [(70, 1500, 3), (1, 7, 1), (257, 300, 16), (3000, 1, 2)] {
        let models = [Model::new(1, height, columns, rank), Model::new(2, height, columns, rank)];
        let sum = |model: usize| json!([rows(model, "w", height), low_rank(model, &models, -0.75)]);
        let op = json!({"linear": {"weights": [0.25, 2.0]}});
        let job = Job::new(&models, &json!([sum(0), sum(1)]), &op);
        let [a, b] = [0, 1].map(|i| adapted(&models[i], -0.75));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * 0.25 + b * 2.0).collect();
        for (threads, chunk, isa) in
            [(1, 1 << 20, "auto"), (1, 1, "scalar"), (2, 1, "auto"), (5, 1 << 18, "scalar")]
        {
            let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
            assert_eq!(job.with(&how).run().values(), expected, "{height}x{columns} {how}");
        }
    }
}

#[test]
fn an_operand_may_be_a_product_alone_or_many() {
    let models = [Model::new(3, 40, 129, 5)];
    let product = low_rank(0, &models, 2.0);
    let alone = Job::new(&models, &json!([[product]]), &json!({"copy": {}})).run().values();
    let zero = models[0].with_w(&vec![0.0; 40 * 129]);
    assert_eq!(alone, adapted(&zero, 2.0).iter().map(|x| x + 0.0).collect::<Vec<_>>());
    let many = json!([[rows(0, "w", 40), product, product, rows(0, "w", 40)]]);
    let got = Job::new(&models, &many, &json!({"copy": {}})).run().values();
    let w = models[0].values("w");
    let expected = w.iter().zip(&alone).map(|(w, p)| w + p + p + w).collect::<Vec<_>>();
    assert_eq!(got, expected);
}

/// Passes, whole rows with a halo, whole matrices and statistics see the sum, not its first term.
#[test]
fn every_kind_of_formula_sees_the_sum_of_the_terms() {
    let models = [1, 2, 3].map(|seed| Model::new(seed, 64, 80, 4));
    let summed: Vec<Model> = models.iter().map(|m| m.with_w(&adapted(m, 0.5))).collect();
    let ops = [
        json!({"combine": {"slerp": {"alpha": 0.3}}}),
        json!({"delta": {"weights": [1.0, 0.5], "lambda": 1.0, "normalize": "weights",
            "consensus": "sum", "even": "majority", "sparsify": {"magnitude": {"density": [0.3, 0.6]}}}}),
    ];
    for (op, count) in ops.iter().zip([2, 3]) {
        let terms = (0..count).map(|i| json!([rows(i, "w", 64), low_rank(i, &models, 0.5)]));
        let plain = (0..count).map(|i| json!([rows(i, "w", 64)]));
        let got = Job::new(&models, &terms.collect(), op).run();
        let expected = Job::new(&summed, &plain.collect(), op).run();
        assert_eq!(got.values(), expected.values(), "{op}");
        assert_eq!(got.report.units[0].stats, expected.report.units[0].stats, "{op}");
    }
}

#[test]
fn products_that_do_not_fit_are_refused() {
    let models = [Model::new(1, 8, 6, 2)];
    let good = low_rank(0, &models, 1.0);
    let cases = [
        ("/low_rank/up/end", json!(7), "rows of `up` differ, expected 8, got 7"),
        ("/low_rank/down/end", json!(1), "rows of `down` differ, expected 2, got 1"),
        ("/low_rank/down/tensor", json!("up"), "columns of `down` differ, expected 6, got 2"),
        ("/low_rank/up/tensor", json!("none"), "has no tensor `none`"),
        (
            "/low_rank/scale",
            json!(1e39),
            "scale 1000000000000000000000000000000000000000, expected a finite f32",
        ),
    ];
    for (place, value, message) in cases {
        let mut product = good.clone();
        *product.pointer_mut(place).expect("a field") = value;
        let job = Job::new(&models, &json!([[rows(0, "w", 8), product]]), &json!({"copy": {}}));
        let refused = job.try_run().expect_err(message).to_string();
        assert!(refused.contains(message), "{refused}");
    }
    let none = Job::new(&models, &json!([[]]), &json!({"copy": {}}));
    let refused = none.try_run().expect_err("no term").to_string();
    assert!(refused.contains("an operand without terms"), "{refused}");
}

#[test]
fn the_smallest_budget_counts_what_products_hold_open() {
    let models = [Model::new(1, 64, 2048, 200)];
    let operands = json!([[rows(0, "w", 64), low_rank(0, &models, 1.0)]]);
    let job = Job::new(&models, &operands, &json!({"copy": {}}));
    let small = json!({"threads": 4, "chunk": 1, "memory_budget": 1});
    let refused = job.with(&small).try_run().expect_err("too little").to_string();
    let words: Vec<&str> = refused.split(' ').collect();
    let least = words.iter().position(|word| *word == "least").expect("a number");
    let least: u64 = words[least + 1].parse().expect("a number");
    assert!(least > 200 * 2048 * 4, "`down` is open as a whole: {least}");
    let fits = json!({"threads": 4, "chunk": 1, "memory_budget": least});
    let done = job.with(&fits).run();
    assert_eq!((done.report.threads, done.report.working_bytes), (1, least));
    let fewer = json!({"threads": 4, "chunk": 1, "memory_budget": least - 1});
    job.with(&fewer).try_run().expect_err("a byte too few");
}
