// lists: compressed lists of a batch, as in src/backend/cuda/launchers/lists.rs.
#pragma once

// For each of n rows, a list of edges or of messages (2 edge + role; role 0 subject, 1 object).
struct ListsArguments {
    const int *offsets;   // [n + 1]
    const int *entries;
    const int *row_count; // [1]: n
};
