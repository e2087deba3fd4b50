//! embedding: rows copied to and from a table.

mod kernel_support;

use kernel_support::{Values, devices, indices_to_device, poisoned, to_device, to_host};
use scenerank::backend::cuda::embedding::{embedding_backward, embedding_forward};

#[test]
fn rows_go_to_their_types_and_the_rest_is_zero() {
    for device in devices() {
        for (rows, types, width) in
            [(1, vec![], 3), (1, vec![0], 1), (5, vec![1, 4], 300), (400, (0..399).step_by(3).collect(), 13)]
        {
            let mut values = Values::new(1);
            let (table, d_rows) = (values.signed(rows * width), values.signed(types.len() * width));
            let types_there = indices_to_device(&device, &types);
            let types_there = types_there.slice(0..types.len());
            let count = types.len() * width;

            let mut gathered = poisoned(&device, count);
            let table_there = to_device(&device, &table);
            let mut target = gathered.slice_mut(0..count);
            embedding_forward(&device, &mut target, table_there.slice(0..rows * width), types_there, width)
                .expect("a launch");
            let row = |t: &u32| table[*t as usize * width..][..width].to_vec();
            assert_eq!(to_host(&device, &gathered), types.iter().flat_map(row).collect::<Vec<_>>());

            let mut d_table = poisoned(&device, rows * width);
            let d_rows_there = to_device(&device, &d_rows);
            let target = d_table.slice_mut(0..rows * width);
            embedding_backward(&device, target, d_rows_there.slice(0..count), types_there, width)
                .expect("a launch");
            let mut want = vec![0.0; rows * width];
            for (t, d) in types.iter().zip(d_rows.chunks_exact(width)) {
                want[*t as usize * width..][..width].copy_from_slice(d);
            }
            assert_eq!(to_host(&device, &d_table), want);
        }
    }
}
