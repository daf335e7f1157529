CREATE TABLE "visits" (
  "id" serial PRIMARY KEY,
  "patient" text NOT NULL,
  "minutes" integer NOT NULL,
  "facts" jsonb DEFAULT '{}' NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX "visits_patient" ON "visits" ("patient");
