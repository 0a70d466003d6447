/* mpi_stub.h - the few calls of MPI that distill_mpi.c makes, for one process: it is rank 0 of 1, and every sum over the ranks is
 * there already.
 * SPDX-License-Identifier: MIT */
#ifndef MPI_STUB_H
#define MPI_STUB_H
#include <stdlib.h>

typedef enum MPI_Comm { MPI_COMM_WORLD, MPI_COMM_NULL } MPI_Comm;
typedef enum MPI_Datatype { MPI_FLOAT, MPI_DOUBLE, MPI_UINT64_T } MPI_Datatype;
typedef enum MPI_Op { MPI_SUM, MPI_MIN, MPI_MAX } MPI_Op;
typedef enum MPI_Info { MPI_INFO_NULL } MPI_Info;
enum { MPI_SUCCESS, MPI_THREAD_FUNNELED, MPI_COMM_TYPE_SHARED };
#define MPI_IN_PLACE ((const void *)1)

static inline int MPI_Init_thread(int *argc, char ***argv, int wanted, int *have)
{
    (void)argc, (void)argv;
    *have = wanted;
    return MPI_SUCCESS;
}
static inline int MPI_Comm_rank(MPI_Comm comm, int *rank) { (void)comm; *rank = 0; return MPI_SUCCESS; }
static inline int MPI_Comm_size(MPI_Comm comm, int *size) { (void)comm; *size = 1; return MPI_SUCCESS; }
static inline int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *out)
{
    (void)type, (void)key, (void)info;
    *out = comm;
    return MPI_SUCCESS;
}
static inline int MPI_Comm_free(MPI_Comm *comm) { *comm = MPI_COMM_NULL; return MPI_SUCCESS; }
static inline int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    (void)data, (void)count, (void)type, (void)root, (void)comm;
    return MPI_SUCCESS;
}
/* MPI_IN_PLACE alone, which is all that is used. */
static inline int MPI_Allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    (void)in, (void)out, (void)count, (void)type, (void)op, (void)comm;
    return MPI_SUCCESS;
}
static inline int MPI_Barrier(MPI_Comm comm) { (void)comm; return MPI_SUCCESS; }
static inline int MPI_Abort(MPI_Comm comm, int code) { (void)comm; exit(code); }
static inline int MPI_Finalize(void) { return MPI_SUCCESS; }
#endif
