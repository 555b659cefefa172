"""Retention: what is removed, and why nothing that anybody needs is.

**Rows first, then files.** A collection first marks rows in transactions of their own (`marking`), and then deletes
the files that marked rows, or no row at all, stand for (`collecting`). A collection that dies in between is finished by
the next one: it compares the store with the marks, not with a list of its own.

**Optimizer states and checkpoints.** Marking takes the locks that everybody takes who moves a head: the model's row,
then the checkpoint's, and only then judges, in a second statement that sees whatever the last holder of the locks
committed. So a step or a `set_head` is done before the mark, and the node is a head and stays; or comes after it, and
finds the mark: `set_head` to a node without optimizer state goes on with fresh moments and says so, to one without
files it is refused. A fork shares the lock of the node it starts from, and copies its marks: either its root is there
when the mark is decided, and the node stays; or it finds the mark. A trainer that had read a row before the mark and
misses the files afterwards reads the row again (`trainer.worker.loading`). What samplers hold for a `set_head` under
way (`adapter_wants`) stays as well. Lock order as everywhere: lease, model, operations, checkpoints.

**Nodes without files** (`store.oplog.unsaved`) are computed from the payloads of their step and its gradients, and from
the node above: these are kept as long as the node is, and the node for as long as large payloads are. Then it is marked
as one whose files were removed, unless it is a head, is pinned, or is on the way from files to one of these.

**Names** (`checkpoint_names`) keep what they stand for until they expire: the optimizer state for training, else the
adapter. Runs that saved nothing under a name are removed a week after their last call; their rows stay.

**Models that were deleted** keep the files of nodes from which other models began, until the last of these is deleted,
too; all others lose theirs with the next collection.

**Files without a row.** A trainer publishes files first and inserts the row later. Folders that no row names are left
alone for the grace period; then the collector inserts a rejected row under their id. A trainer that was held up for so
long fails to insert its own, and its step fails cleanly; the gradients stay in the log.

**Blobs.** A blob is durable before its row commits. Writing one makes it young, also if it was there already; young
blobs are left alone, and a blob is moved aside before its age is looked at for the last time (`BlobStore`). Operations
keep their blobs while a replay, a backward or a waiting caller may read them; that they no longer do is marked in
`blobs_dropped_at`, and once true stays true.

**Trainers and samplers.** Rows of processes that were silent for a week are no use to anybody, except those that a
lease names, and the newest trainer of each base, which says what losses the base has.

**Sampling requests.** Their answers are kept until the client says that it has them, or an hour after its session has
ended; of a client that fell silent, a day.

**Pictures.** The bytes are durable before the row commits, as of every blob, and a request that names a picture makes
its row young before it does anything else. So a row that has aged belongs to nobody unless a rollout, a payload that
may still be read, or an open request names it; those are looked up in the statement that deletes it. What names
pictures is written down with what it belongs to, in the same transaction: `trace_pictures`, `operations.pictures`,
`sampling_requests.pictures`. Deleting a rollout thus deletes its pictures, once they are no other rollout's.

**Who reads meanwhile.** Backup and verification hold a shared lock that a collection takes exclusively (`lock`).
"""
