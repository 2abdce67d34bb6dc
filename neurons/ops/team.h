/* Shares of a frame over the threads that torch computes with. They look out for their next work for milliseconds before
   they sleep, so that threads besides them would find no free core after each of torch's own operators. */

typedef struct {
    int64_t first, last; /* elements of every frame */
    double *sums, *more; /* this share's own outputs, or NULL */
} Share;

typedef int (*Work)(const void *job, const Share *share);                            /* 1 if there is no memory */
typedef void (*Parallel)(void (*member)(void *), void *team, unsigned threads, unsigned flags); /* OpenMP's, as GCC calls it */

typedef struct {
    Work work;
    const void *job;
    const Share *shares;
    int64_t count, next;
    int failed;
} Team;

static void take_part(void *data) {
    Team *team = data;
    for (int64_t i; (i = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED)) < team->count;)
        if (team->work(team->job, team->shares + i)) __atomic_store_n(&team->failed, 1, __ATOMIC_RELAXED);
}

int over_threads(Parallel parallel, Work work, const void *job, const Share *shares, int64_t count, unsigned threads) {
    Team team = {work, job, shares, count, 0, 0};
    parallel(take_part, &team, threads, 0);
    return team.failed;
}
