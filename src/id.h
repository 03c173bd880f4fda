/*-------------------------------------------------------------------------
 *
 * id.h
 *	  Identifiers of entries, ordered by time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_ID_H
#define QUOTA_ID_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

extern void id_generate(TimestampTz at, pg_uuid_t *id);
extern void id_generate_earlier(TimestampTz at, pg_uuid_t *id);
extern void id_lower_bound(TimestampTz at, pg_uuid_t *id);

#endif							/* QUOTA_ID_H */
