// lists: the compressed lists of a batch, as src/backend/cuda/launchers/lists.rs has them.
#pragma once

// A list of edges, or of messages (2 edge + role; role 0 subject, 1 object), for each of n rows.
struct ListsArguments {
    const int *offsets;   // [n + 1]
    const int *entries;
    const int *row_count; // [1]: n
};
