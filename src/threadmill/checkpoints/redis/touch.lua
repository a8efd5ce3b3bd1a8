-- A read lets the thread live on.
-- with: thread

keep_for(count())
return 'OK'
